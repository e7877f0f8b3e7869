"""Headers of image files: format, size, and the memory that decoding takes, read before anything is decoded.

The gateway and the encoder service charge a file by its header, and `images.decode` refuses a file whose image has
another size than its header. A header is therefore read exactly as Pillow reads it: a GIF whose first frame is larger
than its canvas has the size of the frame. The work is one pass over the bytes at most, in
`metadata.MAX_PIECES` steps. Pillow is not imported.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fovea.media import gif, jpeg, png
from fovea.media.metadata import ImageMetadata

__all__ = ["ImageFormat", "ImageHeader", "read_header"]


class ImageFormat(StrEnum):
    """Format of an image file, by its name in texts."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    GIF = "GIF"
    BMP = "BMP"


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Facts about an image file that its header tells.

    Attributes:
        format: Format of the file.
        width, height: Stored size in pixels, at least 1 each. An orientation in the metadata may swap them.
        bytes_per_pixel: Most bytes of memory that decoding to upright RGB holds for each pixel.
    """

    format: ImageFormat
    width: int
    height: int
    bytes_per_pixel: int

    @property
    def num_pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def decoded_bytes(self) -> int:
        """Most bytes of memory that decoding holds for pixels."""
        return self.num_pixels * self.bytes_per_pixel + min(self.height, _STRIP_ROWS) * self.width * _STRIP_BYTES


def read_header(data: bytes) -> ImageHeader | None:
    """Header of a JPEG, PNG, WebP, GIF or BMP file; None where there is none that can be read.

    Args:
        data: Content of the file; bytes after the header may be missing or broken.

    Raises:
        TooLarge: The header comes after more than `metadata.MAX_PIECES` segments or blocks.
    """
    read = next((read for start, read in _READERS if data.startswith(start)), None)
    header = None if read is None else read(data)
    return header if header is not None and header.num_pixels > 0 else None


def _read_jpeg(data: bytes) -> ImageHeader | None:
    count = ImageMetadata()
    frame: tuple[int, int, int, int] | None = None
    for marker, segment in jpeg.segments(data):
        count.count_piece()
        if marker in jpeg.FRAMES and len(segment) >= 10:
            frame = (marker, *struct.unpack_from(">HHB", segment, 5))
        elif marker == jpeg.START_OF_SCAN and frame is not None and len(segment) > 4:
            marker, height, width, components = frame
            is_whole = marker not in jpeg.PROGRESSIVE and segment[4] == components
            return ImageHeader(ImageFormat.JPEG, width, height, _JPEG_BYTES if is_whole else _JPEG_SCANS_BYTES)
    return None


def _read_png(data: bytes) -> ImageHeader | None:
    if len(data) < 33 or data[8:16] != b"\0\0\0\x0dIHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return ImageHeader(ImageFormat.PNG, width, height, _PNG_BYTES)


def _read_webp(data: bytes) -> ImageHeader | None:
    """Size of the canvas: the decoder allocates all of it, and refuses frames that reach beyond it."""
    kind = data[12:16]
    if data[8:12] != b"WEBP" or len(data) < (25 if kind == b"VP8L" else 30):
        return None
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return ImageHeader(ImageFormat.WEBP, width, height, _WEBP_BYTES)


def _read_gif(data: bytes) -> ImageHeader | None:
    frame = gif.first_frame(data, ImageMetadata())
    if frame is None:
        return None
    left, top, width, height = struct.unpack_from("<4H", data, frame + 1)
    canvas_width, canvas_height = struct.unpack_from("<HH", data, 6)
    return ImageHeader(ImageFormat.GIF, max(canvas_width, left + width), max(canvas_height, top + height), _GIF_BYTES)


def _read_bmp(data: bytes) -> ImageHeader | None:
    if len(data) < 26:
        return None
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return ImageHeader(ImageFormat.BMP, width, height, _BMP_BYTES)
    if header_size not in _BMP_HEADERS:
        return None
    width, height = struct.unpack_from("<II", data, 18)
    # A negative height says that the first row is the top one.
    return ImageHeader(ImageFormat.BMP, width, 2**32 - height if height >> 24 == 0xFF else height, _BMP_BYTES)


# Images are brought to RGB of 8 bits in strips, see `images.to_rgb`.
_STRIP_ROWS: Final = 64
_STRIP_BYTES: Final = 32
_BMP_HEADERS: Final = frozenset({40, 52, 56, 64, 108, 124})
# Measured by benchmarks/safety/media_cost.py, in the worst kind of each format.
_JPEG_BYTES: Final = 9
_JPEG_SCANS_BYTES: Final = 13
"""JPEG in several scans: the decoder holds all coefficients, 2 bytes each."""
_PNG_BYTES: Final = 9
_WEBP_BYTES: Final = 13
_GIF_BYTES: Final = 9
_BMP_BYTES: Final = 9
_READERS: Final[tuple[tuple[bytes, Callable[[bytes], ImageHeader | None]], ...]] = (
    (jpeg.SIGNATURE, _read_jpeg),
    (png.SIGNATURE, _read_png),
    (b"RIFF", _read_webp),
    *((signature, _read_gif) for signature in gif.SIGNATURES),
    (b"BM", _read_bmp),
)
