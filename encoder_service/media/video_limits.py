"""Limits of videos. The settings have their defaults from here, without importing a decoder."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VideoLimits"]


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """Limits of videos.

    Attributes:
        max_bytes: Bytes of a file, or of all frames of a list together.
        max_frames: Number of frames that are sampled, or that a list has.
        max_frame_pixels: Pixels of one frame. A decoder may hold 17 frames of twice that size.
        max_pixels: Pixels of all sampled frames together. They are in memory at once, with 3 bytes a pixel.
        max_seconds: Duration of a file, in seconds.
        timeout_s: Longest time to decode a file, in seconds.
    """

    max_bytes: int = 32 * 2**20
    max_frames: int = 64
    max_frame_pixels: int = 4096 * 4096
    max_pixels: int = 150_000_000
    max_seconds: float = 3600.0
    timeout_s: float = 30.0
