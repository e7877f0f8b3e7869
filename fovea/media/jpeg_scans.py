"""JPEG: how much work a file makes, counted by its markers."""

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
# As a decoder looks for the next one: other bytes are passed over, in the data of a scan and wherever else they stand.
# 0xFF is followed by 0 where it is a value; restart markers and the like have no length.
_MARKER: Final = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)


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
    while scans < stop_at and (found := _MARKER.search(data, position)):
        marker = found[1][0]
        if marker == _END_OF_IMAGE:
            break
        scans += marker == _START_OF_SCAN
        position = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    return scans
