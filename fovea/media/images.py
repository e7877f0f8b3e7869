"""From the bytes of a picture file to an RGB picture, with limits that hold before memory is taken."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image
from PIL.ImageFile import ImageFile

from fovea.errors import InvalidRequest, TooLarge, UnsupportedMedia
from fovea.media import gif, jpeg, orientation, png, png_16_bit
from fovea.media import metadata as kinds
from fovea.media.file_formats import detected
from fovea.media.jpeg_scans import check_scans
from fovea.media.metadata import Metadata

__all__ = ["FORMATS", "check_size", "decode", "to_rgb"]

FORMATS: Final = ("JPEG", "PNG", "WebP", "GIF", "BMP")
_ACCEPTED: Final = ", ".join(FORMATS)
_OWN_NAMES: Final = tuple(f"a {name} image" for name in FORMATS)
_PILLOW_FORMATS: Final = tuple(name.upper() for name in FORMATS)
# The tower's input is the middle square at a fixed height: a longer strip shows it next to nothing and, scaled by its
# short side, takes gigabytes.
_MAX_ASPECT_RATIO: Final = 100
_STRIP_ROWS: Final = 64
_REMOVERS: Final = (
    (png.SIGNATURE, png.without_metadata),
    (jpeg.SIGNATURE, jpeg.without_metadata),
    *((signature, gif.without_metadata) for signature in gif.SIGNATURES),
)

# Pillow's own bomb check warns from 90 and refuses from 179 megapixels; `decode` checks every header against its own
# limit instead.
Image.MAX_IMAGE_PIXELS = None


def decode(data: bytes, *, max_bytes: int, max_pixels: int) -> Image.Image:
    """The first frame of an image file, upright and in RGB.

    The format is told from the content. Orientation by EXIF, or else by XMP, is applied; other metadata is skipped.
    Transparent parts lie on white: what colour a file stores under them is chance. 16 bits a sample become 8.

    Args:
        data: A JPEG, PNG, WebP, GIF or BMP file.
        max_bytes: Most bytes of file.
        max_pixels: Most pixels, checked against the header before anything is decoded.

    Raises:
        TooLarge: More bytes, pixels or metadata than that, or a JPEG of more than 100 scans.
        UnsupportedMedia: Empty, another format, or broken.
        InvalidRequest: More than 100 times as long as wide, or the reverse.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"the picture has {len(data):,} bytes; at most {max_bytes:,} are accepted", param="image")
    if not data:
        raise UnsupportedMedia(f"the picture is empty; accepted: {_ACCEPTED}", param="image")
    metadata = Metadata()
    image = _pixels(_without_metadata(data, metadata), metadata, max_pixels)
    return orientation.turned(image, orientation.of_metadata(metadata.exif, metadata.xmp))


def _without_metadata(data: bytes, metadata: Metadata) -> bytes:
    remove = next((remove for start, remove in _REMOVERS if data.startswith(start)), None)
    return data if remove is None else remove(data, metadata)


def _pixels(file: bytes, metadata: Metadata, max_pixels: int) -> Image.Image:
    """In RGB, as they are stored."""
    try:
        image = Image.open(io.BytesIO(file), formats=_PILLOW_FORMATS)
    except Exception as error:  # the parsers raise all kinds on hostile bytes
        raise _unreadable(file) from error
    with image:
        check_size(*image.size, max_pixels)
        if image.format == "JPEG":
            check_scans(file)
        _note_webp_metadata(image, metadata)
        drawn = image.tile[0][1] if image.format == "GIF" else None
        try:
            loaded = _loaded(image, file)
        except Exception as error:
            raise UnsupportedMedia(
                f"the {image.format} picture is broken or incomplete; accepted: whole files of {_ACCEPTED}",
                param="image",
            ) from error
        return to_rgb(loaded) if drawn is None else _on_canvas(loaded, drawn)


def _loaded(image: ImageFile, file: bytes) -> Image.Image:
    if image.format == "PNG":
        return png_16_bit.load(image, file)
    image.load()
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # programs that know no alpha leave it 0
    return image


def _note_webp_metadata(image: Image.Image, metadata: Metadata) -> None:
    """Of a WebP, which Pillow opens without looking into its metadata."""
    if image.format == "WEBP":
        for key, kind in (("exif", kinds.EXIF), ("xmp", kinds.XMP), ("icc_profile", kinds.ICC)):
            metadata.count(kind, len(image.info.get(key, b"")))
        metadata.exif, metadata.xmp = image.info.get("exif", b""), image.info.get("xmp", b"")


def _on_canvas(image: Image.Image, drawn: tuple[int, int, int, int]) -> Image.Image:
    """In RGB; what the first frame of an animation leaves free is transparent, whatever background the file names."""
    if drawn == (0, 0, *image.size):
        return to_rgb(image)
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(to_rgb(image.crop(drawn)), drawn)
    return canvas


def _unreadable(data: bytes) -> UnsupportedMedia:
    what = detected(data)
    if what is None:
        problem = "these bytes are no picture that can be read"
    elif what in _OWN_NAMES:
        problem = f"the file is {what} that is broken or of a kind that cannot be read"
    else:
        problem = f"the file is {what}"
    return UnsupportedMedia(f"{problem}; accepted: {_ACCEPTED}", param="image")


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
    if strip.has_transparency_data:
        layer = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return strip.convert("RGB")
