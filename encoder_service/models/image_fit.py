"""Fit of an image to the square of the vision tower: padding to a square, and the area that the tower then covers.

`crop` leaves the image as it is, and the checkpoint's processor cuts out a square. `pad` puts the whole image on a
square first, as LLaVA-1.5's evaluation does (`expand2square`, `image_aspect_ratio: pad`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from PIL import Image

from fovea.media import images
from fovea.media.images import Size
from fovea.wire.image_fits import ImageFit

__all__ = ["WHOLE", "Box", "Color", "padding_color", "square_on", "viewed_box"]

Color: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """Rectangle in units of an image's width and height; it extends beyond 0..1 where there is padding."""

    left: float
    top: float
    right: float
    bottom: float


WHOLE: Final = Box(0.0, 0.0, 1.0, 1.0)


def padding_color(mean: Iterable[float]) -> Color:
    """Colour of the padding from a processor's mean in 0..1; rounded down, as in LLaVA."""
    return tuple(int(value * 255) for value in mean)


def square_on(
    image: Image.Image, full_size: Size, color: Color
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """A canvas with the image, and the square of the canvas in whose middle the image is.

    The square is the whole canvas, unless a decoder has reduced the image. Then its sides are fractions of pixels.

    Args:
        image: The image in RGB.
        full_size: Its size before a decoder reduced it.
        color: Colour around the image.

    Returns:
        The canvas; left, top, right and bottom of the square in pixels of the canvas.
    """
    side, scale = max(full_size), images.reduction(image, full_size)
    corner = [offset / scale for offset in _offsets(full_size)]
    at = [math.ceil(offset) for offset in corner]
    left, top = (whole - exact for whole, exact in zip(at, corner, strict=True))
    canvas = Image.new("RGB", (math.ceil(left + side / scale), math.ceil(top + side / scale)), color)
    canvas.paste(image, (at[0], at[1]))
    return canvas, (left, top, left + side / scale, top + side / scale)


def viewed_box(size: Size, resized: Size, cropped: Size, fit: ImageFit) -> Box:
    """Area of an image that a processor leaves.

    Args:
        size: Size of the image.
        resized: Size to which the processor resizes the image, or the square with the image.
        cropped: Size of the centre that it then cuts out. A larger one than `resized` adds padding.
        fit: Fit of the image.
    """
    canvas, offsets = ((max(size),) * 2, _offsets(size)) if fit == "pad" else (size, (0, 0))
    ranges = []
    for side, of_canvas, offset, of_resized, of_crop in zip(size, canvas, offsets, resized, cropped, strict=True):
        start = (of_resized - of_crop) // 2  # as transformers cuts, also where it pads
        ranges.append([(edge * of_canvas / of_resized - offset) / side for edge in (start, start + of_crop)])
    (left, right), (top, bottom) = ranges
    return Box(left, top, right, bottom)


def _offsets(size: Size) -> tuple[int, int]:
    """Left and top of an image on its square."""
    width, height = size
    side = max(size)
    return (side - width) // 2, (side - height) // 2
