"""Orientation of the stored pixels of an image, numbered 1 to 8 as in EXIF.

1 is upright, 2 mirrored, 3 upside down, 4 mirrored upside down; 5 to 8 swap rows and columns.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from PIL import Image

__all__ = ["UPRIGHT", "apply_orientation", "read_orientation", "swaps_sides"]

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
_EXIF_START: Final = b"Exif\0\0"  # precedes the block in most files, in some twice
_XMP_ORIENTATION: Final = re.compile(rb'tiff:Orientation(?:\s*=\s*["\']|>)\s*([1-8])')


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Upright image of a stored one; the same object where it is upright already."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def swaps_sides(orientation: int) -> bool:
    """Whether the stored rows are the columns of the upright image."""
    return orientation >= 5


def read_orientation(exif: bytes, xmp: bytes) -> int:
    """Orientation in EXIF, or else in XMP; `UPRIGHT` where neither holds a valid one."""
    orientation = _read_exif(exif.removeprefix(_EXIF_START).removeprefix(_EXIF_START))
    if orientation is None and (match := _XMP_ORIENTATION.search(xmp)):
        orientation = int(match[1])
    return orientation if orientation in _TURNS else UPRIGHT


def _read_exif(exif: bytes) -> int | None:
    """Orientation tag of the first directory. Other tags are not read: a few bytes may refer to gigabytes of values."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 10:
        return None
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    if start + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", exif, entry)
        if tag == _ORIENTATION_TAG and kind in (_SHORT, _LONG):
            return int(struct.unpack_from(order + "HI"[kind == _LONG], exif, entry + 8)[0])
    return None
