"""The files that a question is about: uploads, data URLs and https URLs to bytes, within limits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from fovea.errors import InvalidRequest, TooLarge
from gateway.fetch import MediaFetcher
from gateway.media import IMAGE, VIDEO, MediaFile, MediaKind, Video, decode_data_url, media_file, top_level_field
from gateway.question import MediaInput, MediaInputs, VideoInput

__all__ = ["Media", "MediaLimits", "MediaLoader"]

_AROUND_URLS: Final = " \t\r\n\f"  # as browsers drop it
_NEITHER_URL: Final = "neither a data URL (data:{}...;base64,...) nor an https URL"


@dataclass(frozen=True)
class MediaLimits:
    """Most bytes of one picture, of one video, and of all files of a request."""

    image_bytes: int
    video_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Media:
    """Pictures and videos of a question, in the order in which it names them.

    Attributes:
        images: Picture files.
        videos: Videos.
        field: The request field where the first of them stands.
    """

    images: tuple[MediaFile, ...]
    videos: tuple[Video, ...]
    field: str


class MediaLoader:
    """Reads what sources name.

    Args:
        fetcher: For https URLs.
        limits: What is accepted.
    """

    def __init__(self, fetcher: MediaFetcher, limits: MediaLimits) -> None:
        self._fetcher = fetcher
        self._limits = limits

    async def close(self) -> None:
        """Closes the connections."""
        await self._fetcher.close()

    async def load(self, sources: MediaInputs) -> Media:
        """All files, at least one. MediaInputs are taken out as they are read: encoded ones need not outlive that.

        Raises:
            ServiceError: A file is too large, of another kind, or cannot be had.
        """
        budget = _Budget(self._limits.total_bytes)
        first = sources.images[0].field_path if sources.images else sources.videos[0].field_path
        images, videos = [], []
        while sources.images:
            images.append(await self._read(sources.images.pop(0), IMAGE, self._limits.image_bytes, budget))
        while sources.videos:
            videos.append(await self._video(sources.videos.pop(0), budget))
        return Media(tuple(images), tuple(videos), top_level_field(first))

    async def _video(self, source: VideoInput, budget: _Budget) -> Video:
        if source.file is not None:
            return Video(await self._read(source.file, VIDEO, self._limits.video_bytes, budget))
        frames = [await self._read(frame, IMAGE, self._limits.image_bytes, budget) for frame in source.frames]
        return Video(frames=tuple(frames))

    async def _read(self, source: MediaInput, kind: MediaKind, max_bytes: int, budget: _Budget) -> MediaFile:
        file = await self._file(source, kind, max_bytes)
        budget.spend(len(file.data), top_level_field(source.field_path))
        return file

    async def _file(self, source: MediaInput, kind: MediaKind, max_bytes: int) -> MediaFile:
        # Decoding and hashing megabytes takes long enough to hold up everybody else, hence the threads.
        field_path, content = source.field_path, source.content
        if isinstance(content, bytes):
            return await asyncio.to_thread(media_file, content, kind, field_path=field_path, max_bytes=max_bytes)
        content = content.strip(_AROUND_URLS)
        scheme = content[:8].lower()
        if scheme.startswith("data:"):
            return await asyncio.to_thread(decode_data_url, content, kind, field_path=field_path, max_bytes=max_bytes)
        if scheme.startswith(("https://", "http://")):
            data = await self._fetcher.fetch(content, kind, field_path=field_path, max_bytes=max_bytes)
            return await asyncio.to_thread(media_file, data, kind, field_path=field_path, max_bytes=max_bytes)
        raise InvalidRequest(
            f"{field_path} is {_NEITHER_URL.format(kind.media_types[0])}", param=top_level_field(field_path)
        )


class _Budget:
    """Bytes that are left for one request's files."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total

    def spend(self, size: int, param: str) -> None:
        self._left -= size
        if self._left < 0:
            raise TooLarge(
                f"the pictures and videos have more than the {self._total:,} bytes accepted for all of a request",
                param=param,
            )
