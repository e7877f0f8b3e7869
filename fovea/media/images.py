"""Decoding of an image file to RGB, with limits that are checked before memory is allocated."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final, TypeAlias

from PIL import Image
from PIL.ImageFile import ImageFile

from fovea.errors import InvalidRequest, TooLarge, UnsupportedMedia
from fovea.media import gif, jpeg, orientation, png, png_16_bit, webp
from fovea.media.file_formats import detect_format
from fovea.media.image_headers import ImageFormat, ImageHeader, read_header
from fovea.media.jpeg_scans import check_scans
from fovea.media.metadata import ImageMetadata, MetadataKind

__all__ = [
    "NeededSize",
    "Size",
    "check_size",
    "decode",
    "decode_reduced",
    "read_checked_header",
    "reduction",
    "resize",
    "to_rgb",
]

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""

NeededSize: TypeAlias = Callable[[Size], Size]
"""From the size of an upright image to the size to which it will be resized."""

_ACCEPTED: Final = ", ".join(ImageFormat)
_ACCEPTED_NAMES: Final = tuple(f"a {name} image" for name in ImageFormat)
# The tower's input is the middle square at a fixed height. Of a longer strip it would see almost nothing, and the strip
# scaled by its short side would take gigabytes.
_MAX_ASPECT_RATIO: Final = 100
_STRIP_ROWS: Final = 64
_OPAQUE: Final = 255
_JPEG_SCALES: Final = (1, 2, 4, 8)
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
    return _decode(data, max_bytes, max_pixels, None)[0]


def decode_reduced(
    data: bytes, *, max_bytes: int, max_pixels: int, needed_size: NeededSize
) -> tuple[Image.Image, Size]:
    """Like `decode`, but a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size where that is enough.

    The decoder computes the smaller image from a part of the coefficients of each block. It is faster, and resized
    further, the image differs a little from one that was decoded at full size.

    Args:
        data: see `decode`.
        max_bytes: see `decode`.
        max_pixels: most pixels at full size.
        needed_size: least size that is needed; the image has at least as many columns and as many rows.

    Returns:
        The image, and the size that it has at full size.

    Raises:
        ServiceError: see `decode`.
    """
    return _decode(data, max_bytes, max_pixels, needed_size)


def read_checked_header(data: bytes, max_bytes: int, max_pixels: int) -> ImageHeader:
    """Header of an image file within limits; see `decode`."""
    if len(data) > max_bytes:
        raise TooLarge(f"the image has {len(data):,} bytes; at most {max_bytes:,} are accepted", param="image")
    if not data:
        raise UnsupportedMedia(f"the image is empty; accepted: {_ACCEPTED}", param="image")
    header = read_header(data)
    if header is None:
        raise _unreadable(data)
    check_size(header.width, header.height, max_pixels)
    return header


def _decode(data: bytes, max_bytes: int, max_pixels: int, needed_size: NeededSize | None) -> tuple[Image.Image, Size]:
    header = read_checked_header(data, max_bytes, max_pixels)
    metadata = ImageMetadata()
    file = _without_metadata(data, metadata)
    image = _decode_pixels(file, header, metadata, needed_size)
    turn = orientation.read_orientation(metadata.exif, metadata.xmp)
    size = (header.height, header.width) if orientation.swaps_sides(turn) else (header.width, header.height)
    return orientation.apply_orientation(image, turn), size


def _without_metadata(data: bytes, metadata: ImageMetadata) -> bytes:
    remove = next((remove for start, remove in _REMOVERS if data.startswith(start)), None)
    return data if remove is None else remove(data, metadata)


def _decode_pixels(
    file: bytes, header: ImageHeader, metadata: ImageMetadata, needed_size: NeededSize | None
) -> Image.Image:
    """First frame in RGB, in the orientation of the file.

    An image of another size than its header is refused: the header is what was checked and charged.
    """
    try:
        image = Image.open(io.BytesIO(file), formats=(header.format.upper(),))
    except Exception as error:  # the parsers raise exceptions of any type on hostile bytes
        raise _unreadable(file) from error
    with image:
        if image.size != (header.width, header.height):
            raise _unreadable(file)
        if header.format is ImageFormat.JPEG:
            check_scans(file)
            if needed_size is not None:
                _reduce(image, orientation.read_orientation(metadata.exif, metadata.xmp), needed_size)
        _read_webp_metadata(image, metadata)
        frame_box = image.tile[0][1] if header.format is ImageFormat.GIF else None
        try:
            loaded = _load(image, file)
        except Exception as error:
            raise UnsupportedMedia(
                f"the {image.format} image is broken or incomplete; accepted: whole files of {_ACCEPTED}",
                param="image",
            ) from error
        return to_rgb(loaded) if frame_box is None else _paste_on_white(loaded, frame_box)


def _reduce(image: ImageFile, turn: int, needed_size: NeededSize) -> None:
    """Sets the scale at which a JPEG image is decoded: the smallest that leaves the needed size."""
    if orientation.swaps_sides(turn):
        height, width = needed_size((image.height, image.width))
    else:
        width, height = needed_size(image.size)
    image.draft(None, (width, height))


def _load(image: ImageFile, file: bytes) -> Image.Image:
    if image.format == "PNG":
        return png_16_bit.load(image, file)
    if image.format == "WEBP":
        return webp.load(image)
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


def resize(image: Image.Image, size: Size, resample: int, full_size: Size) -> Image.Image:
    """The image at another size, as Pillow resizes it.

    Args:
        image: image of `decode` or `decode_reduced`.
        size: width and height of the result.
        resample: Pillow's number of the filter.
        full_size: size of the image before it was reduced.
    """
    full_width, full_height = full_size
    # The last column and row of a reduced image may stand for less than a whole block.
    scale = reduction(image, full_size)
    return image.resize(size, Image.Resampling(resample), box=(0, 0, full_width / scale, full_height / scale))


def reduction(image: Image.Image, full_size: Size) -> int:
    """Number by which `decode_reduced` divided the sides of an image of `full_size`: 1, 2, 4 or 8."""
    width, height = full_size
    return next(scale for scale in _JPEG_SCALES if (-(-width // scale), -(-height // scale)) == image.size)


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
    if strip.mode == "RGBA" and strip.getchannel("A").getextrema() == (_OPAQUE, _OPAQUE):
        return strip.convert("RGB")  # what the composition below returns, for a tenth of its time
    if strip.has_transparency_data:
        layer = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return strip.convert("RGB")
