"""PNG images of 16 bits per sample, reduced to 8 bits: v becomes v // 257, the inverse of widening 8 bits to 16.

Pillow's decoder keeps the upper byte of each sample of a coloured image. A second decoding with the other byte order
gives the lower bytes. The transparent colour is compared in 16 bits.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from typing import Final

from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile

__all__ = ["load"]

_GREY_ALPHA: Final = "LA;16B"
_LOWER_BYTES: Final = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_BYTES_OF_GREY: Final = ("L;16", "L;16B")  # the upper byte of little-endian samples, the lower one
_IS_POSITIVE: Final = [0] + [1] * 255
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
        strip = image.crop(box)
        # Pillow rounds down. With the half, no quotient of a multiple of 257 ends up just below a whole number.
        quotients = strip.point(lambda sample: sample * (1 / 257) + 0.5 / 257)
        grey = quotients.convert("I").convert("L")
        if transparent is not None:
            samples = strip.tobytes()
            high, low = (Image.frombytes("L", strip.size, samples, "raw", layout) for layout in _BYTES_OF_GREY)
            grey.paste("white", mask=_equals(high, low, [transparent]))
        reduced.paste(grey, box)
    return reduced


def _reduce_grey_alpha(pixels: Image.Image) -> None:
    """Turns the four bytes of two samples into red, green, blue and alpha, in place."""
    for box in _strips(pixels):
        high_grey, low_grey, high_alpha, low_alpha = pixels.crop(box).split()
        grey, alpha = _to_8_bits(high_grey, low_grey), _to_8_bits(high_alpha, low_alpha)
        pixels.paste(Image.merge("RGBA", (grey, grey, grey, alpha)), box)


def _reduce(image: Image.Image, lower: Image.Image) -> None:
    """Reduces the samples to 8 bits in place, since a copy takes hundreds of megabytes; transparent becomes white."""
    transparent = image.info.pop("transparency", None)
    for box in _strips(image):
        high, low = image.crop(box), lower.crop(box)
        samples = _to_8_bits(high, low)
        if transparent is not None:
            samples.paste("white", mask=_equals(high, low, transparent))
        image.paste(samples, box)


def _to_8_bits(high: Image.Image, low: Image.Image) -> Image.Image:
    """(256 high + low) // 257 of each sample, which is high, or one less where low < high."""
    is_less = ImageChops.subtract(high, low).point(_IS_POSITIVE * len(high.getbands()))
    return ImageChops.subtract(high, is_less)


def _equals(high: Image.Image, low: Image.Image, color: Sequence[int]) -> Image.Image:
    """Mask of the pixels of a colour of 16 bits a band: 255 where all samples are equal, else 0."""
    upper, lower = zip(*(divmod(sample, 256) for sample in color), strict=True)
    bands = zip((*high.split(), *low.split()), (*upper, *lower), strict=True)
    return functools.reduce(ImageChops.darker, [band.point(_only(byte)) for band, byte in bands])


def _only(byte: int) -> list[int]:
    """Table from one value of a byte to 255, and from all others to 0."""
    return [255 * (value == byte) for value in range(256)]


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, image.height, _STRIP_ROWS):
        yield 0, top, image.width, min(top + _STRIP_ROWS, image.height)
