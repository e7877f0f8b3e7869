"""Facts about a video file that its container tells: number and rate of frames, and the memory that decoding takes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from encoder_service.media.video_containers import broken_video, open_video
from encoder_service.media.video_frames import display_size
from encoder_service.media.video_limits import VideoLimits
from fovea.errors import TooLarge
from fovea.media.images import Size

__all__ = ["MEASURE_BYTES", "Clock", "VideoFacts", "check_bytes", "measure"]

MEASURE_BYTES: Final = 256 * 2**20
"""Memory that `measure` takes beside the file: an index of millions of frames, and frames that FFmpeg decodes first."""
_INDEPENDENT: Final = frozenset({"gif", "mjpeg", "png", "prores", "rawvideo"})
"""Codecs that hold no earlier frames."""
_FEW_FRAMES: Final = 4
_MANY_FRAMES: Final = 20
"""Frames that a decoder holds at most: 16 for reference, the one in progress, and those that are given out."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """Facts about a video file.

    Attributes:
        total: Number of frames that can be shown.
        rate: Frames in a second; 0: unknown.
        first: Number of the first packet to decode.
        size: Width and height of a frame in square pixels, before rotation.
        decoder_bytes: Most memory of the frames that the decoder holds, in bytes.
        took_s: Time of measuring in seconds.
    """

    total: int
    rate: float
    first: int
    size: Size
    decoder_bytes: int
    took_s: float

    @property
    def seconds(self) -> float:
        """Duration in seconds; 0: unknown."""
        return self.total / self.rate if self.rate else 0.0


def measure(data: bytes, limits: VideoLimits) -> VideoFacts:
    """Facts about a video file, without decoding it.

    The packets are counted, since headers are often wrong. Packets before the first key frame, as in a video that was
    cut between key frames, cannot be decoded and do not count. If no key frame is marked, all packets count.

    Raises:
        TooLarge: The bytes, pixels or duration exceed the limits, or counting takes too long.
        UnsupportedMedia: The format is not supported, or the file has no video or is broken.
        InvalidRequest: Frames are more than 100 times as long as wide, or the reverse.
    """
    check_bytes(len(data), limits)
    started_at = time.monotonic()
    clock = Clock(limits.timeout_s)
    with open_video(data, max_pixels=limits.max_frame_pixels) as (container, stream):
        total, first = 0, None
        for number, packet in enumerate(container.demux(stream)):
            clock.check()
            if first is None and packet.size and packet.is_keyframe:
                total, first = 0, number
            total += bool(packet.size) and not packet.is_discard
        rate = float(stream.average_rate or 0)
        context = stream.codec_context
        size = display_size(context.width, context.height, stream.sample_aspect_ratio)
        bits = context.format.padded_bits_per_pixel if context.format else 32
        held = min(total + 3, _FEW_FRAMES if context.name in _INDEPENDENT else _MANY_FRAMES)
        decoder_bytes = held * _padded(context.width) * _padded(context.height) * bits // 8
    if not total:
        raise broken_video()
    if rate and total / rate > limits.max_seconds:
        raise TooLarge(
            f"the video lasts {total / rate:,.0f} seconds; at most {limits.max_seconds:,.0f} are accepted",
            param="video",
        )
    return VideoFacts(total, rate, first or 0, size, decoder_bytes, time.monotonic() - started_at)


def check_bytes(count: int, limits: VideoLimits) -> None:
    """Checks the bytes of a file, or of all frames of a list together.

    Raises:
        TooLarge: There are more than `limits.max_bytes`.
    """
    if count > limits.max_bytes:
        raise TooLarge(f"the video has {count:,} bytes; at most {limits.max_bytes:,} are accepted", param="video")


class Clock:
    """Timeout of decoding. It is checked between packets, because the decoder cannot be interrupted.

    Args:
        timeout_s: Timeout in seconds, for the error.
        took_s: Seconds of it that have passed already.
    """

    def __init__(self, timeout_s: float, took_s: float = 0.0) -> None:
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s - took_s

    def check(self) -> None:
        """Raises TooLarge once the time is over."""
        if time.monotonic() > self._end:
            raise TooLarge(
                f"the video takes longer than {self._timeout_s:g} seconds to decode; a shorter or smaller one, or"
                " sampled frames, are accepted",
                param="video",
            )


def _padded(side: int) -> int:
    """Side of a decoder's frame: whole blocks of 64 pixels, and edges for motion that points outside."""
    return -(-side // 64) * 64 + 128
