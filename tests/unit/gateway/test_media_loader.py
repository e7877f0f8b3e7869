"""Where a request's files are checked and hashed: small ones in the event loop, others in a thread."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest

from benchmarks.scaling.clients import jpeg_files
from gateway.media import loader
from gateway.media.fetch import MediaFetcher
from gateway.media.files import MediaFile, media_file
from gateway.media.inputs import MediaInput, MediaInputs
from gateway.media.loader import MediaLimits, MediaLoader

SMALL = jpeg_files(1, size=(160, 120))[0]  # 3 kB
LIMITS = MediaLimits(image_pixels=10**6, image_bytes=10**6, video_bytes=10**6, total_bytes=10**7)


async def read_off_loop(files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each file of a request is read in another thread."""
    off_loop: list[bool] = []

    def noted(data: bytes, *args: object, **options: object) -> MediaFile:
        off_loop.append(threading.current_thread() is not threading.main_thread())
        return media_file(data, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loader, "media_file", noted)
    inputs = MediaInputs([MediaInput(f"images.{i}", file) for i, file in enumerate(files)])
    images, _ = await MediaLoader(MediaFetcher(()), LIMITS).load(inputs, deadline=math.inf)
    assert [image.data for image in images] == files
    await asyncio.get_running_loop().shutdown_default_executor()
    return off_loop


async def test_a_small_file_is_read_in_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await read_off_loop([SMALL], monkeypatch) == [False]


async def test_a_large_file_is_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await read_off_loop([SMALL + bytes(32 * 1024)], monkeypatch) == [True]


async def test_small_files_beyond_the_bytes_of_a_request_are_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    number = 32 * 1024 // len(SMALL)
    assert await read_off_loop([SMALL] * (number + 2), monkeypatch) == [*[False] * number, True, True]
