"""Images for questions: PNG and JPEG files, and coloured noise."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

__all__ = ["jpeg", "noise_image", "png"]


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def jpeg(image: Image.Image, quality: int, *, optimize: bool = False) -> bytes:
    """The image as a JPEG file, with Pillow's other settings (4:2:0); `optimize` computes the Huffman tables."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality, optimize=optimize)
    return file.getvalue()


def noise_image(size: tuple[int, int], rng: np.random.Generator, *, coarse: tuple[int, int] = (9, 9)) -> Image.Image:
    """Coloured noise with structure at every scale.

    Args:
        size: width and height in pixels.
        rng: source of the noise.
        coarse: height and width of the noise before it is enlarged.
    """
    noise = rng.integers(0, 255, (*coarse, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
