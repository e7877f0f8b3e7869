"""The eight ways in which stored pixels may have to be turned, numbered as EXIF does, and how a file says which.

1 is upright; 2 mirrored; 3 upside down; 4 mirrored upside down; 5 to 8 are those that swap rows and columns.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from PIL import Image

__all__ = ["UPRIGHT", "of_metadata", "turned"]

UPRIGHT: Final = 1
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG: Final = 0x0112
_SHORT, _LONG = 3, 4
_EXIF_START: Final = b"Exif\0\0"  # before the block in most files, in some twice
_XMP_ORIENTATION: Final = re.compile(rb'tiff:Orientation(?:\s*=\s*["\']|>)\s*([1-8])')


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as it is to be seen; itself where nothing is to be turned."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def of_metadata(exif: bytes, xmp: bytes) -> int:
    """The orientation that EXIF tells, or else XMP; `UPRIGHT` where neither does, or not in a way that can be read."""
    orientation = _of_exif(exif.removeprefix(_EXIF_START).removeprefix(_EXIF_START))
    if orientation is None and (match := _XMP_ORIENTATION.search(xmp)):
        orientation = int(match[1])
    return orientation if orientation in _TURNS else UPRIGHT


def _of_exif(exif: bytes) -> int | None:
    """The tag of the first directory. Nothing else is read: a few bytes of others may name gigabytes of values."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 10:
        return None
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    if start + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", exif, at)
        if tag == _ORIENTATION_TAG and kind in (_SHORT, _LONG):
            return int(struct.unpack_from(order + "HI"[kind == _LONG], exif, at + 8)[0])
    return None
