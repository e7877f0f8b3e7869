"""The encoder service as a process, on the shipped model: what is at the side of a long image, by image fit."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator

import grpc
import pytest
from PIL import Image, ImageDraw

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.v1 import encoder_pb2, encoder_pb2_grpc

TIMEOUT_S = 120.0
BACKGROUND = (208, 208, 200)
TEXT = [0, 5, 6, 1]


@pytest.fixture(scope="module")
def encoder() -> Iterator[encoder_pb2_grpc.EncoderServiceStub]:
    """A client of `python -m encoder_service` with its default settings."""
    command = [
        sys.executable,
        "-m",
        "encoder_service",
        "--device",
        "cpu",
        "--num-threads",
        "1",
        "--decode-workers",
        "1",
    ]
    command += ["--model", str(shipped_checkpoint("llava")), "--text-tower", str(shipped_checkpoint("clip"))]
    with subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(2 * TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "serving on port" in line)
            port = int(line.split("serving on port ")[1].split(":")[0])
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield encoder_pb2_grpc.EncoderServiceStub(channel)
        finally:
            watchdog.cancel()
            process.terminate()


def png(size: tuple[int, int], box: tuple[int, int, int, int] | None) -> bytes:
    """A plain image, with a red block unless `box` is None."""
    image = Image.new("RGB", size, BACKGROUND)
    if box is not None:
        ImageDraw.Draw(image).rectangle(box, fill=(200, 30, 30))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "box", "middle", "square"),
    [
        ((1200, 300), (60, 80, 200, 220), (0.375, 0, 0.625, 1), (0, -1.5, 1, 2.5)),
        ((300, 1200), (80, 980, 220, 1120), (0, 0.375, 1, 0.625), (-1.5, 0, 2.5, 1)),
    ],
)
def test_what_is_at_the_side_is_lost_with_crop_and_seen_with_pad(
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    middle: tuple[float, ...],
    square: tuple[float, ...],
    encoder: encoder_pb2_grpc.EncoderServiceStub,
) -> None:
    def encode(file: bytes, fit: int) -> tuple[bytes, tuple[float, ...]]:
        request = encoder_pb2.EncodeRequest(images=[file], text_ids=TEXT, pruner="none", image_fit=fit)
        reply = encoder.Encode(request, timeout=TIMEOUT_S)
        (viewed,) = reply.viewed
        return reply.visual_tokens[0].features.data, (viewed.left, viewed.top, viewed.right, viewed.bottom)

    empty, with_block = png(size, None), png(size, box)
    assert encode(empty, 0) == encode(with_block, 0)
    assert encode(empty, 0)[1] == middle
    (without_it, viewed), (with_it, _) = (
        encode(empty, encoder_pb2.IMAGE_FIT_PAD),
        encode(with_block, encoder_pb2.IMAGE_FIT_PAD),
    )
    assert without_it != with_it
    assert viewed == square


def test_the_service_takes_both_fits_and_crops_by_default(encoder: encoder_pb2_grpc.EncoderServiceStub) -> None:
    info = encoder.GetModelInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
    assert list(info.image_fits) == [encoder_pb2.IMAGE_FIT_CROP, encoder_pb2.IMAGE_FIT_PAD]
    assert info.default_image_fit == encoder_pb2.IMAGE_FIT_CROP
