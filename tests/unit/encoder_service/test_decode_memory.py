"""Memory of decoding: what is charged by headers, what waits for it, and files that need more than they say."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from benchmarks.safety.costly_images import COSTLY_IMAGES, one_colour_webp, webp_of_prefix_codes
from benchmarks.safety.costly_videos import with_edits
from encoder_service.media.decoding import Measured, MediaDecoder, Unmeasured
from encoder_service.media.video_facts import measure
from encoder_service.media.videos import FrameList, VideoFile, VideoLimits
from encoder_service.models.base import EncoderModel
from encoder_service.models.media import MediaOptions
from fovea.errors import ServiceError, TooLarge, from_rpc_error
from fovea.v1 import encoder_pb2
from tests.unit.encoder_service.video_files import quadrants, video

TIMEOUT_S = 60.0
LIMITS = (16 * 2**20, 50_000_000)
MEBIBYTE = 2**20


@pytest.fixture
def decoder(encoders: dict[str, EncoderModel]) -> MediaDecoder:
    return MediaDecoder(encoders["video_llava"].media, *LIMITS)


async def refusal(service: Any, image: bytes) -> ServiceError:
    request = encoder_pb2.EncodeRequest(images=[image], text_ids=[98, 3, 99])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Encode(request, timeout=TIMEOUT_S)
    return from_rpc_error(caught.value, "encoder")


def test_an_image_is_charged_by_its_pixels_and_its_format(decoder: MediaDecoder) -> None:
    webp, jpeg = (COSTLY_IMAGES[name][1]((1000, 1000)) for name in ("WebP lossless, one colour", "JPEG baseline"))
    assert decoder.memory(one_colour_webp((2000, 2000))) - decoder.memory(webp) > 3 * 13 * 1_000_000
    assert decoder.memory(webp) > decoder.memory(jpeg) > 9 * 1_000_000


def test_padding_and_enlarged_strips_are_charged(encoders: dict[str, EncoderModel]) -> None:
    decoder = MediaDecoder(encoders["llava"].media, *LIMITS)
    wide = COSTLY_IMAGES["PNG of 1 bit"][1]((5000, 50))
    assert decoder.memory(wide, MediaOptions("pad")) > 4 * 5000**2 > decoder.memory(wide)
    # A strip of 100 pixels is enlarged until its short side is that of the square.
    strip, square = (COSTLY_IMAGES["JPEG baseline"][1](size) for size in ((1, 100), (10, 10)))
    assert decoder.memory(strip) > decoder.memory(square)


def test_the_frames_of_a_list_are_charged_together(decoder: MediaDecoder) -> None:
    frame = COSTLY_IMAGES["PNG of RGB"][1]((1000, 1000))
    one, three = (decoder.memory(FrameList((frame,) * count)) for count in (1, 3))
    assert three - one >= 2 * 4 * 1_000_000


def test_a_video_is_charged_by_the_frames_that_are_sampled_and_those_of_its_decoder(decoder: MediaDecoder) -> None:
    file = video([quadrants(640, 320)] * 12)
    facts = measure(file, VideoLimits())
    assert (facts.total, facts.size) == (12, (640, 320))
    few, many = (decoder.memory(Measured(VideoFile(file, count), facts)) for count in (2, 8))
    assert many - few >= 6 * 4 * 640 * 320
    intra = video([quadrants(640, 320)] * 12, codec="mjpeg", container="avi", pixel_format="yuvj420p")
    assert measure(intra, VideoLimits()).decoder_bytes < facts.decoder_bytes / 3


def test_measured_and_unmeasured_videos_are_decoded_alike(decoder: MediaDecoder) -> None:
    file = VideoFile(video([quadrants(128, 64)] * 12), 5)
    facts: Any = decoder.run(Unmeasured(file), MediaOptions())
    measured: Any = decoder.run(Measured(file, facts), MediaOptions())
    assert (measured.pixels == decoder(file).pixels).all()


async def test_an_image_that_can_never_fit_is_refused_with_what_is_accepted(start: Any, make_engine: Any) -> None:
    engine = make_engine()
    async with start(engine, max_decode_bytes=64 * MEBIBYTE) as service:
        error = await refusal(service, one_colour_webp((1000, 1000)))
        assert error.code == "too_large"
        assert "bytes of memory to decode; at most 67,108,864 are accepted" in error.message
        jpeg = COSTLY_IMAGES["JPEG baseline"][1]((1000, 1000))
        request = encoder_pb2.EncodeRequest(images=[jpeg], text_ids=[98, 3, 99])
        assert (await service.stub.Encode(request, timeout=TIMEOUT_S)).visual_tokens


async def test_images_beyond_the_memory_wait_and_are_all_answered(start: Any, make_engine: Any) -> None:
    async with start(make_engine(), max_decode_bytes=100 * MEBIBYTE, decode_workers=2) as service:
        images = [one_colour_webp((999, 990 + number)) for number in range(4)]
        requests = [encoder_pb2.EncodeRequest(images=[image], text_ids=[98, 3, 99]) for image in images]
        replies = await asyncio.gather(*(service.stub.Encode(each, timeout=TIMEOUT_S) for each in requests))
        assert all(reply.visual_tokens for reply in replies)


async def test_a_header_beyond_the_limits_is_refused_without_a_worker(start: Any, make_engine: Any) -> None:
    async with start(make_engine()) as service:
        tasks: list[Any] = []
        run = service.pool.run
        service.pool.run = lambda *task, **options: tasks.append(task) or run(*task, **options)
        error = await refusal(service, one_colour_webp((7000, 7000)))
        assert "7,000 x 7,000 pixels; at most 1,000,000 in all are accepted" in error.message
        assert not tasks


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the private memory of a process")
async def test_a_file_that_needs_more_memory_than_its_header_tells_fails_alone(
    start: Any, make_engine: Any, make_image: Callable[..., bytes], tmp_path: Path
) -> None:
    """300 kB that hold 65,536 groups of prefix codes: 800 MB in the decoder, for one megapixel."""
    async with start(make_engine()) as service:
        error = await refusal(service, webp_of_prefix_codes((1000, 1000)))
        assert error.code in ("unsupported_media", "too_large")
        request = encoder_pb2.EncodeRequest(images=[make_image(0)], text_ids=[98, 3, 99])
        assert (await service.stub.Encode(request, timeout=TIMEOUT_S)).visual_tokens


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")]
)
def test_a_worker_says_that_the_memory_was_too_little(
    decoder: MediaDecoder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def exhaust(self: MediaDecoder, *_: Any) -> None:
        raise error

    monkeypatch.setattr(MediaDecoder, "__call__", exhaust)
    with pytest.raises(TooLarge, match="more memory to decode than its size explains"):
        decoder.run(one_colour_webp((10, 10)), MediaOptions())


def test_edits_of_a_video_are_counted_before_it_is_opened() -> None:
    file = video([quadrants(64, 64)] * 12)
    assert measure(with_edits(file, 3), VideoLimits()).total > 0
    with pytest.raises(TooLarge, match="declares 10,001 edits; at most 10,000 are accepted"):
        measure(with_edits(file, 10_001), VideoLimits())
