"""Decoding of an image file to RGB, with limits that are checked before memory is allocated."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image
from PIL.ImageFile import ImageFile

from fovea.errors import InvalidRequest, TooLarge, UnsupportedMedia
from fovea.media import gif, jpeg, orientation, png, png_16_bit
from fovea.media.file_formats import detect_format
from fovea.media.jpeg_scans import check_scans
from fovea.media.metadata import ImageMetadata, MetadataKind

__all__ = ["FORMATS", "check_size", "decode", "to_rgb"]

FORMATS: Final = ("JPEG", "PNG", "WebP", "GIF", "BMP")
_ACCEPTED: Final = ", ".join(FORMATS)
_ACCEPTED_NAMES: Final = tuple(f"a {name} image" for name in FORMATS)
_PILLOW_FORMATS: Final = tuple(name.upper() for name in FORMATS)
# The tower's input is the middle square at a fixed height. Of a longer strip it would see almost nothing, and the strip
# scaled by its short side would take gigabytes.
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
    """First frame of an image file, upright and in RGB.

    The content tells the format, not the name of the file. The orientation in EXIF, or else in XMP, is applied; other
    metadata is skipped. Transparent parts become white, since the colour that a file stores there is arbitrary. Samples
    of 16 bits are reduced to 8.

    Args:
        data: JPEG, PNG, WebP, GIF or BMP file.
        max_bytes: most bytes of the file.
        max_pixels: most pixels, checked in the header before anything is decoded.

    Raises:
        TooLarge: the file has too many bytes, pixels or metadata, or is a JPEG of more than 100 scans.
        UnsupportedMedia: the file is empty, broken or of another format.
        InvalidRequest: one side is more than 100 times as long as the other.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"the image has {len(data):,} bytes; at most {max_bytes:,} are accepted", param="image")
    if not data:
        raise UnsupportedMedia(f"the image is empty; accepted: {_ACCEPTED}", param="image")
    metadata = ImageMetadata()
    image = _decode_pixels(_without_metadata(data, metadata), metadata, max_pixels)
    return orientation.apply_orientation(image, orientation.read_orientation(metadata.exif, metadata.xmp))


def _without_metadata(data: bytes, metadata: ImageMetadata) -> bytes:
    remove = next((remove for start, remove in _REMOVERS if data.startswith(start)), None)
    return data if remove is None else remove(data, metadata)


def _decode_pixels(file: bytes, metadata: ImageMetadata, max_pixels: int) -> Image.Image:
    """First frame in RGB, in the orientation of the file."""
    try:
        image = Image.open(io.BytesIO(file), formats=_PILLOW_FORMATS)
    except Exception as error:  # the parsers raise exceptions of any type on hostile bytes
        raise _unreadable(file) from error
    with image:
        check_size(*image.size, max_pixels)
        if image.format == "JPEG":
            check_scans(file)
        _read_webp_metadata(image, metadata)
        frame_box = image.tile[0][1] if image.format == "GIF" else None
        try:
            loaded = _load(image, file)
        except Exception as error:
            raise UnsupportedMedia(
                f"the {image.format} image is broken or incomplete; accepted: whole files of {_ACCEPTED}",
                param="image",
            ) from error
        return to_rgb(loaded) if frame_box is None else _paste_on_white(loaded, frame_box)


def _load(image: ImageFile, file: bytes) -> Image.Image:
    if image.format == "PNG":
        return png_16_bit.load(image, file)
    image.load()
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # programs without support for alpha write 0
    return image


def _read_webp_metadata(image: Image.Image, metadata: ImageMetadata) -> None:
    """Counts and keeps the metadata of a WebP image, which Pillow opens without parsing them."""
    if image.format == "WEBP":
        kinds = (("exif", MetadataKind.EXIF), ("xmp", MetadataKind.XMP), ("icc_profile", MetadataKind.ICC))
        for key, kind in kinds:
            metadata.count(kind, len(image.info.get(key, b"")))
        metadata.exif, metadata.xmp = image.info.get("exif", b""), image.info.get("xmp", b"")


def _paste_on_white(image: Image.Image, frame_box: tuple[int, int, int, int]) -> Image.Image:
    """First frame of a GIF in RGB. The canvas around it is transparent, whatever background the file names."""
    if frame_box == (0, 0, *image.size):
        return to_rgb(image)
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(to_rgb(image.crop(frame_box)), frame_box)
    return canvas


def _unreadable(data: bytes) -> UnsupportedMedia:
    file_format = detect_format(data)
    if file_format is None:
        problem = "these bytes are not an image that can be read"
    elif file_format in _ACCEPTED_NAMES:
        problem = f"the file is {file_format} that is broken or of a kind that cannot be read"
    else:
        problem = f"the file is {file_format}"
    return UnsupportedMedia(f"{problem}; accepted: {_ACCEPTED}", param="image")


def check_size(width: int, height: int, max_pixels: int, *, what: str = "image", param: str = "image") -> None:
    """Checks the size of an image.

    Args:
        width, height: pixels of each side.
        max_pixels: most pixels of the image.
        what: name of the image for the error.
        param: field of the request with the image.

    Raises:
        TooLarge: the image has more than `max_pixels`.
        InvalidRequest: one side is more than 100 times as long as the other.
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
    """A decoded image of any mode in RGB; transparent parts become white."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    # Strip by strip: the intermediate steps of a whole image would take several times its memory.
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
