"""Images and frames of 9 x 9 coloured squares, which keep what they show when they are resized."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

__all__ = ["frames", "image", "png"]


def image(size: tuple[int, int], seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.NEAREST)


def frames(count: int, size: tuple[int, int]) -> tuple[Image.Image, ...]:
    return tuple(image(size, seed) for seed in range(count))


def png(size: tuple[int, int], seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    image(size, seed).save(buffer, "PNG")
    return buffer.getvalue()
