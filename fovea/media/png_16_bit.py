"""PNG images of 16 bits per sample, reduced to 8 bits: v becomes v // 257, the inverse of widening 8 bits to 16.

Pillow's decoder keeps the upper byte of each sample of a coloured image. A second decoding with the other byte order
gives the lower bytes. The transparent colour is compared in 16 bits.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

__all__ = ["load"]

_Bytes: TypeAlias = npt.NDArray[np.uint8]

_GREY_ALPHA: Final = "LA;16B"
_LOWER_BYTES: Final = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_WHITE: Final = 255
_STRIP_ROWS: Final = 64


def load(image: ImageFile, file: bytes) -> Image.Image:
    """Pixels of an opened PNG in 8 bits per sample.

    Args:
        image: image that is opened and not loaded yet.
        file: content of the file that the image was opened from.
    """
    layout = image.tile[0].args
    if layout == _GREY_ALPHA:
        _reduce_grey_alpha(_load_as(image, "RGBA"))
        return image
    image.load()
    if image.mode == "I;16":
        return _grey(image)
    if layout in _LOWER_BYTES:
        with Image.open(io.BytesIO(file), formats=("PNG",)) as lower:
            _reduce(image, _load_as(lower, _LOWER_BYTES[layout]))
    return image


def _load_as(image: ImageFile, layout: str) -> ImageFile:
    image.tile = [image.tile[0]._replace(args=layout)]
    image.load()
    return image


def _grey(image: Image.Image) -> Image.Image:
    transparent = image.info.get("transparency")
    reduced = Image.new("L", image.size)
    for box in _strips(image):
        samples = np.asarray(image.crop(box))
        grey = (samples // 257).astype(np.uint8)
        if transparent is not None:
            grey[samples == transparent] = _WHITE
        reduced.paste(Image.fromarray(grey), box)
    return reduced


def _reduce_grey_alpha(pixels: Image.Image) -> None:
    """Turns the four bytes of two samples into red, green, blue and alpha, in place."""
    for box in _strips(pixels):
        samples = np.asarray(pixels.crop(box))
        grey_alpha = _to_8_bits(samples[..., ::2], samples[..., 1::2])
        pixels.paste(Image.fromarray(grey_alpha[..., [0, 0, 0, 1]]), box)


def _reduce(image: Image.Image, lower: Image.Image) -> None:
    """Reduces the samples to 8 bits in place, since a copy takes hundreds of megabytes; transparent becomes white."""
    transparent = image.info.pop("transparency", None)
    for box in _strips(image):
        high, low = np.asarray(image.crop(box)), np.asarray(lower.crop(box))
        samples = _to_8_bits(high, low)
        if transparent is not None:
            samples[(high * np.uint16(256) + low == transparent).all(axis=-1)] = _WHITE
        image.paste(Image.fromarray(samples), box)


def _to_8_bits(high: _Bytes, low: _Bytes) -> _Bytes:
    """(256 high + low) // 257 of each sample."""
    return high - (low < high)


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, image.height, _STRIP_ROWS):
        yield 0, top, image.width, min(top + _STRIP_ROWS, image.height)
