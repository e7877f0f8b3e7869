"""Images and videos as a client sent them, not yet loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["MediaInput", "MediaInputs", "VideoInput"]


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
