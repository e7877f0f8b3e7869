"""From the bytes of a picture file to an RGB picture, with limits that hold before memory is taken."""

from __future__ import annotations

import contextlib
import io
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from fovea.errors import InvalidRequest, TooLarge, UnsupportedMedia
from fovea.jpeg import check_scans

__all__ = ["FORMATS", "check_size", "decode", "to_rgb"]

FORMATS: Final = ("JPEG", "PNG", "WebP", "GIF", "BMP")
_PILLOW_FORMATS: Final = tuple(name.upper() for name in FORMATS)
# The tower's input is the middle square at a fixed height: a longer strip shows it next to nothing and, scaled by its
# short side, takes gigabytes.
_MAX_ASPECT_RATIO: Final = 100
_STRIP_ROWS: Final = 64

# Pillow's own bomb check warns from 90 and refuses from 179 megapixels; `decode` checks every header against its own
# limit instead.
Image.MAX_IMAGE_PIXELS = None


def decode(data: bytes, *, max_bytes: int, max_pixels: int) -> Image.Image:
    """The first frame of a picture file, upright and in RGB.

    The format is told from the content. EXIF orientation is applied. Transparent parts lie on white: what colour a file
    stores under them is chance. 16-bit grey is brought to 8 bits.

    Args:
        data: A JPEG, PNG, WebP, GIF or BMP file.
        max_bytes: Most bytes of file.
        max_pixels: Most pixels, checked against the header before anything is decoded.

    Raises:
        TooLarge: More bytes or pixels than that, or a JPEG of more than 100 scans.
        UnsupportedMedia: Empty, another format, or broken.
        InvalidRequest: More than 100 times as long as wide, or the reverse.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"the picture has {len(data):,} bytes; at most {max_bytes:,} are accepted", param="image")
    accepted = ", ".join(FORMATS)
    if not data:
        raise UnsupportedMedia(f"the picture is empty; accepted: {accepted}", param="image")
    try:
        image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    except Exception as error:  # the parsers raise all kinds on hostile bytes
        raise UnsupportedMedia(
            f"these bytes are no picture that can be read; accepted: {accepted}", param="image"
        ) from error
    with image:
        check_size(*image.size, max_pixels)
        if image.format in ("JPEG", "MPO"):
            check_scans(data)
        try:
            image.load()
        except Exception as error:
            raise UnsupportedMedia(
                f"the {image.format} picture is broken or incomplete; accepted: whole files of {accepted}",
                param="image",
            ) from error
        _turn_upright(image)
        return to_rgb(image)


def check_size(width: int, height: int, max_pixels: int, *, what: str = "picture", param: str = "image") -> None:
    """Refuses what is too large, and strips.

    Raises:
        TooLarge: More than `max_pixels`.
        InvalidRequest: More than 100 times as long as wide, or the reverse.
    """
    if width * height > max_pixels:
        raise TooLarge(
            f"the {what} has {width:,} x {height:,} pixels; at most {max_pixels:,} in all are accepted", param=param
        )
    if max(width, height) > _MAX_ASPECT_RATIO * min(width, height):
        raise InvalidRequest(
            f"the {what} is {width:,} x {height:,}; its longer side may be"
            f" at most {_MAX_ASPECT_RATIO} times the shorter",
            param=param,
        )


def _turn_upright(image: Image.Image) -> None:
    with contextlib.suppress(Exception):  # broken EXIF beside a sound picture: show the picture
        ImageOps.exif_transpose(image, in_place=True)


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode in RGB, see `decode`."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    # Strip by strip: the intermediate steps of a whole picture would take several times its memory.
    canvas = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, image.height))
        canvas.paste(_strip_to_rgb(image.crop(box)), box)
    return canvas


def _strip_to_rgb(strip: Image.Image) -> Image.Image:
    if strip.mode.startswith("I"):
        grey = np.asarray(strip.convert("I")).clip(0, 65535) // 257
        strip = Image.fromarray(grey.astype(np.uint8))
    if strip.has_transparency_data:
        layer = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return strip.convert("RGB")
