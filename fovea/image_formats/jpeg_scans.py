"""JPEG: the work of decoding a file, as its markers tell it."""

from __future__ import annotations

import re
from typing import Final

from fovea.errors import TooLarge

__all__ = ["MAX_SCANS", "check_scans", "num_scans"]

MAX_SCANS: Final = 100
"""Most scans of a JPEG file. Encoders write up to about 20; a decoder goes through all pixels for each of them, and a
scan of some hundred bytes takes as long as one of megabytes."""

_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
_STANDALONE: Final = {0x01, *range(0xD0, 0xD9)}
# Inside a scan's data 0xFF is followed by 0 (it is a value), by a restart marker, or by padding.
_MARKER_AFTER_DATA: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def check_scans(data: bytes) -> None:
    """Refuses a JPEG file with more than `MAX_SCANS` scans, without decoding anything.

    Raises:
        TooLarge: it has more.
    """
    count = num_scans(data, stop_at=MAX_SCANS + 1)
    if count > MAX_SCANS:
        raise TooLarge(
            f"the JPEG image has more than {MAX_SCANS} scans; at most {MAX_SCANS} are accepted", param="image"
        )


def num_scans(data: bytes, *, stop_at: int) -> int:
    """Scans of the first image in a JPEG file, counted up to `stop_at`. Thumbnails in its metadata do not count."""
    scans, position = 0, 2
    while position + 4 <= len(data) and scans < stop_at:
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == _END_OF_IMAGE:
            break
        if marker == 0xFF or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            scans += 1
            found = _MARKER_AFTER_DATA.search(data, position)
            position = found.start() if found else len(data)
    return scans
