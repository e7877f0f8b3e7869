"""Loading of images and videos: uploads, data URLs and https URLs to checked files, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from fovea.errors import InvalidRequest, TooLarge
from gateway.core.deadlines import until
from gateway.media.fetch import MediaFetcher
from gateway.media.files import IMAGE, VIDEO, MediaFile, MediaKind, Video, decode_data_url, media_file
from gateway.media.inputs import MediaInput, MediaInputs, VideoInput

__all__ = ["MediaLimits", "MediaLoader"]

_AROUND_URLS: Final = " \t\r\n\f"  # stripped from both ends of a URL, as browsers do
_SMALL_BYTES: Final = 32 * 1024
"""Most bytes of a request's files that are checked and hashed in the event loop. That takes 0.1 ms, less than handing
them to a thread; 13 ms if they consist of the tiniest segments."""
_NEITHER_URL: Final = "neither a data URL (data:{}...;base64,...) nor an https URL"


@dataclass(frozen=True)
class MediaLimits:
    """Largest accepted sizes.

    Attributes:
        image_pixels: Pixels of one image, or frame of a list.
        image_bytes: Bytes of one image file.
        video_bytes: Bytes of one video file.
        total_bytes: Bytes of all files of a request together.
    """

    image_pixels: int
    image_bytes: int
    video_bytes: int
    total_bytes: int


class MediaLoader:
    """Loader of a request's media.

    Args:
        fetcher: Fetcher of https URLs.
        limits: Largest accepted sizes.
    """

    def __init__(self, fetcher: MediaFetcher, limits: MediaLimits) -> None:
        self._fetcher = fetcher
        self._limits = limits

    async def close(self) -> None:
        """Closes the connections."""
        await self._fetcher.close()

    async def load(
        self, media_inputs: MediaInputs, *, deadline: float
    ) -> tuple[tuple[MediaFile, ...], tuple[Video, ...]]:
        """All images and all videos of a request, each in its order.

        Each input is removed from `media_inputs` once it is loaded, so that its encoded form is freed.

        Args:
            media_inputs: Images and videos.
            deadline: Event-loop time in seconds.

        Raises:
            ServiceError: A file is too large, of a format that is not accepted, or cannot be fetched in time.
        """
        allowance = _Allowance(self._limits.total_bytes, deadline)
        images, videos = [], []
        while media_inputs.images:
            images.append(await self._load_image(media_inputs.images.pop(0), allowance))
        while media_inputs.videos:
            videos.append(await self._load_video(media_inputs.videos.pop(0), allowance))
        return tuple(images), tuple(videos)

    async def _load_image(self, image: MediaInput, allowance: _Allowance) -> MediaFile:
        return await self._load_file(image, IMAGE, self._limits.image_bytes, allowance)

    async def _load_video(self, video: VideoInput, allowance: _Allowance) -> Video:
        if video.file is not None:
            return Video(await self._load_file(video.file, VIDEO, self._limits.video_bytes, allowance))
        return Video(frames=tuple([await self._load_image(frame, allowance) for frame in video.frames]))

    async def _load_file(
        self, media_input: MediaInput, kind: MediaKind, max_bytes: int, allowance: _Allowance
    ) -> MediaFile:
        field_path, content = media_input.field_path, media_input.content
        read: Callable[..., MediaFile] = media_file
        if isinstance(content, str):
            content = content.strip(_AROUND_URLS)
            scheme = content[:8].lower()
            if scheme.startswith("data:"):
                read = decode_data_url
            elif scheme.startswith(("https://", "http://")):
                async with until(allowance.deadline):
                    content = await self._fetcher.fetch(content, kind, field_path=field_path, max_bytes=max_bytes)
            else:
                raise InvalidRequest(f"{field_path} is {_NEITHER_URL.format(kind.media_types[0])}", param=field_path)
        reading = partial(
            read, content, kind, field_path=field_path, max_bytes=max_bytes, max_pixels=self._limits.image_pixels
        )
        if allowance.is_small(len(content)):
            file = reading()
        else:
            async with until(allowance.deadline):
                file = await asyncio.to_thread(reading)
        allowance.spend(len(file.data), field_path)
        return file


class _Allowance:
    """Bytes and time left for the files of one request.

    Args:
        total: Bytes of all files.
        deadline: Event-loop time in seconds.
    """

    def __init__(self, total: int, deadline: float) -> None:
        self.deadline = deadline
        self._total = total
        self._left = total
        self._small_left = _SMALL_BYTES

    def spend(self, size: int, param: str) -> None:
        """Takes the bytes of a file.

        Raises:
            TooLarge: Fewer bytes are left.
        """
        self._left -= size
        if self._left < 0:
            raise TooLarge(
                f"the images and videos have more than the {self._total:,} bytes accepted for all of a request",
                param=param,
            )

    def is_small(self, size: int) -> bool:
        """Whether a file of `size` bytes, those before it included, can be read without blocking the event loop."""
        self._small_left -= size
        return self._small_left >= 0
