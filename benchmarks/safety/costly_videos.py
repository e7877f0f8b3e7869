"""Video files that cost much for their bytes, by FFmpeg and by changes to the boxes of MP4 files."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final, TypeAlias

import av
import numpy as np

from benchmarks.safety.costly_images import one_colour_gif

__all__ = ["COSTLY_VIDEOS", "video", "with_edits"]

Size: TypeAlias = tuple[int, int]

_RATE: Final = 10


def video(
    size: Size,
    frames: int,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    streams: int = 1,
    options: dict[str, str] | None = None,
) -> bytes:
    """A file of frames of one colour; each further stream has one frame. `options` are those of the encoder."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        added: list[Any] = [output.add_stream(codec, rate=_RATE, options=options or {}) for _ in range(streams)]
        for stream in added:
            stream.width, stream.height = size
            stream.pix_fmt = pixel_format
            stream.codec_context.thread_count = 1
        grey = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 90, np.uint8), "rgb24")
        grey = grey.reformat(format=pixel_format)
        for stream in added:
            for number in range(frames if stream is added[0] else 1):
                grey.pts, grey.time_base = number, Fraction(1, _RATE)
                output.mux(stream.encode(grey))
            output.mux(stream.encode())
    return file.getvalue()


def with_edits(mp4: bytes, count: int) -> bytes:
    """An MP4 with an edit list of many entries, each of which shows the whole track."""
    entries = struct.pack(">IiHH", 1000, 0, 1, 0) * count
    edit_list = _box(b"edts", _box(b"elst", struct.pack(">II", 0, count) + entries))
    start = mp4.index(b"edts") - 4
    end = start + int.from_bytes(mp4[start : start + 4], "big")
    changed = mp4[:start] + edit_list + mp4[end:]
    grown = len(edit_list) - (end - start)
    for name in (b"moov", b"trak"):
        at = changed.index(name) - 4
        size = int.from_bytes(changed[at : at + 4], "big") + grown
        changed = changed[:at] + size.to_bytes(4, "big") + changed[at + 4 :]
    return changed


def with_samples(mp4: bytes, count: int) -> bytes:
    """An MP4 whose table of sizes declares `count` samples of one size, in no more bytes."""
    at = mp4.index(b"stsz") + 4
    return mp4[:at] + struct.pack(">III", 0, 1, count) + mp4[at + 12 :]


def _short_video() -> bytes:
    return video((64, 64), 600, options={"preset": "ultrafast", "g": "1"})


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


COSTLY_VIDEOS: Final[dict[str, tuple[str, Callable[[], bytes]]]] = {
    "H.264, 4,096 x 4,096": ("pixels of the sampled frames", lambda: video((4096, 4096), 8)),
    "H.264, 4:4:4, 16 reference frames": (
        "memory of the decoder",
        lambda: video((2048, 2048), 40, pixel_format="yuv444p", options={"refs": "16", "bf": "0"}),
    ),
    "H.264, 3,600 frames": (
        "seconds; the time limit",
        lambda: video((1280, 720), 3600, options={"preset": "ultrafast"}),
    ),
    "MPEG-4, 4,096 x 4,096": ("pixels of the sampled frames", lambda: video((4096, 4096), 8, codec="mpeg4")),
    "VP9 in WebM, 1,000 frames": (
        "the time limit",
        lambda: video(
            (640, 480),
            1000,
            container="webm",
            codec="libvpx-vp9",
            options={"deadline": "realtime", "cpu-used": "8"},
        ),
    ),
    "MJPEG in AVI, 4,096 x 4,096": (
        "pixels of the sampled frames",
        lambda: video((4096, 4096), 8, container="avi", codec="mjpeg", pixel_format="yuvj420p"),
    ),
    "PNG in MOV, 4,096 x 4,096": (
        "pixels of the sampled frames",
        lambda: video((4096, 4096), 8, container="mov", codec="png", pixel_format="rgba"),
    ),
    "GIF of one frame": ("pixels of the sampled frames", lambda: one_colour_gif((4000, 4000))),
    "GIF, 8 pixels far outside a canvas": ("pixels", lambda: one_colour_gif((8, 8), canvas=(4000, 4000))),
    "MP4 of 200 streams": ("bytes", lambda: video((64, 64), 2, streams=200)),
    "MP4 with 1 million edits": ("10,000 edits", lambda: with_edits(_short_video(), 1_000_000)),
    "MP4 with 3,500 edits": ("10,000 edits", lambda: with_edits(_short_video(), 3_500)),
    "MP4 with 10 edits for 3,000 frames": (
        "10,000 edits",
        lambda: with_edits(video((64, 64), 3000, options={"preset": "ultrafast"}), 10),
    ),
    "MP4 that declares 3.9 million samples": ("4,000,000 samples", lambda: with_samples(video((64, 64), 2), 3_900_000)),
    "strip of 16 x 1,600": ("the size to which it is resized", lambda: video((16, 1600), 8)),
}
"""For each kind what bounds its cost, and a function that makes a file."""
