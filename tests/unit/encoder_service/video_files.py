"""Video files for tests: frames of four colours, planes of given numbers, boxes of MP4 that are changed in place."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from encoder_service.media.video_limits import VideoLimits
from encoder_service.media.videos import VideoFile, decode
from tests.unit.encoder_service.frame_samplings import EvenSampling

__all__ = ["COLOURS", "QUADRANTS", "corners", "first_frame", "numbers", "quadrants", "refused", "video", "with_matrix"]

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE, "white": WHITE}
# Upper left, upper right, lower left, lower right.
QUADRANTS = ("red", "green", "blue", "white")

Pixels = npt.NDArray[np.uint8]


def quadrants(width: int = 128, height: int = 64) -> Pixels:
    pixels = np.zeros((height, width, 3), np.uint8)
    for at, colour in enumerate(QUADRANTS):
        row, column = divmod(at, 2)
        pixels[row * height // 2 :][: height // 2, column * width // 2 :][:, : width // 2] = COLOURS[colour]
    return pixels


def video(
    frames: Sequence[Pixels | av.VideoFrame],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
    **settings: Any,
) -> bytes:
    """A file of frames, six a second; `settings` are those of the encoder."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=6, options=options or {})
        first = frames[0]
        stream.height, stream.width = first.shape[:2] if isinstance(first, np.ndarray) else (first.height, first.width)
        stream.pix_fmt = pixel_format
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        prepare(stream)
        for number, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame, "rgb24") if isinstance(frame, np.ndarray) else frame
            image.pts, image.time_base = number, Fraction(1, 6)
            output.mux(stream.encode(image))
        output.mux(stream.encode())
    _give_up_real_time()
    return buffer.getvalue()


def _give_up_real_time() -> None:
    """Undoes what SVT-AV1 does as root: it makes the calling thread real-time, which then starves other encoders."""
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def with_matrix(file: bytes, *matrix: int) -> bytes:
    """An MP4 or MOV with another matrix in its first track header: 9 numbers of 4 bytes, after 40 bytes of content."""
    at = file.index(b"tkhd") + 4 + 40
    return file[:at] + struct.pack(">9i", *matrix) + file[at + 36 :]


def first_frame(file: bytes) -> Image.Image:
    return decode(VideoFile(file, 1), EvenSampling(1), VideoLimits()).frames[0]


def corners(image: Image.Image) -> tuple[str, ...]:
    """Colours next to the corners, by the names of `QUADRANTS`; `other` for any other colour."""
    x, y = image.width // 8, image.height // 8
    places = ((x, y), (-x - 1, y), (x, -y - 1), (-x - 1, -y - 1))
    pixels = np.asarray(image).astype(int)
    return tuple(
        next((name for name, colour in COLOURS.items() if np.abs(pixels[row, column] - colour).max() < 12), "other")
        for column, row in places
    )


def numbers(file: bytes, count: int) -> list[int]:
    """Indices of the frames that are sampled of a file of greys 20, 38, 56 ..."""
    frames = decode(VideoFile(file, count), EvenSampling(1), VideoLimits()).frames
    return [round((float(np.asarray(frame).mean()) - 20) / 18) for frame in frames]


def refused(file: bytes, error: type[Exception], words: str, **limits: Any) -> None:
    with pytest.raises(error, match=words):
        decode(VideoFile(file, 2), EvenSampling(2), VideoLimits(**limits))
