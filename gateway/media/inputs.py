"""Images and videos as a client sent them, not yet loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from fovea.errors import InvalidRequest

__all__ = ["MediaInput", "MediaInputs", "VideoInput", "video_of_url"]

_FRAMES: Final = re.compile(r"[ \t\r\n\f]*data: *video/jpeg *; *base64 *,", re.IGNORECASE)
_MAX_FRAMES: Final = 1024
"""Most frames of a data URL, above every setting. It bounds the memory of a URL that is little else than commas."""


@dataclass(frozen=True)
class MediaInput:
    """An image or video as the client sent it.

    Attributes:
        field_path: Path in the request: `image`, `images.1`, `messages.0.content.2`.
        content: Bytes of an uploaded file, or a data URL or https URL.
    """

    field_path: str
    content: bytes | str


@dataclass(frozen=True)
class VideoInput:
    """A video as the client sent it: one file, or a list of frames.

    Attributes:
        field_path: Path in the request, see `MediaInput`.
        file: The video file; None for a list of frames.
        frames: Images in temporal order.
    """

    field_path: str
    file: MediaInput | None = None
    frames: tuple[MediaInput, ...] = ()


@dataclass
class MediaInputs:
    """Images and videos of a request, each in the order of the request."""

    images: list[MediaInput] = field(default_factory=list)
    videos: list[VideoInput] = field(default_factory=list)


def video_of_url(field_path: str, url: str) -> VideoInput:
    """The video of a URL: a file or, in a data URL of the type `video/jpeg`, frames.

    Such a URL holds JPEG files in base64, with commas between them. vLLM reads and writes this form.

    Args:
        field_path: Path of the URL in the request.
        url: A data URL or an https URL, not checked here.

    Raises:
        InvalidRequest: There are more than 1,024 frames.
    """
    start = _FRAMES.match(url)
    if start is None:
        return VideoInput(field_path, MediaInput(field_path, url))
    num_frames = 1 + url.count(",", start.end())
    if num_frames > _MAX_FRAMES:
        raise InvalidRequest(
            f"{field_path} has {num_frames:,} frames; up to {_MAX_FRAMES:,} are accepted", param=field_path
        )
    frames = url[start.end() :].split(",")
    return VideoInput(
        field_path,
        frames=tuple(
            MediaInput(f"{field_path}.{number}", f"data:image/jpeg;base64,{frame}")
            for number, frame in enumerate(frames)
        ),
    )
