"""Number of scans of a JPEG file, counted by its markers: a measure of the work of decoding it."""

from __future__ import annotations

import re
from typing import Final

from fovea.errors import TooLarge

__all__ = ["MAX_SCANS", "check_scans", "num_scans"]

MAX_SCANS: Final = 100
"""Most scans of a JPEG file. Encoders write up to about 20. A decoder visits all pixels in each scan, so a scan of some
hundred bytes takes as long as one of megabytes."""

_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
# Decoders search for the next marker in the same way and skip other bytes. In the data of a scan 0xFF is followed by
# 0. Restart markers and some others have no length.
_MARKER: Final = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)


def check_scans(data: bytes) -> None:
    """Checks the number of scans of a JPEG file without decoding it.

    Raises:
        TooLarge: the file has more than `MAX_SCANS` scans.
    """
    count = num_scans(data, stop_at=MAX_SCANS + 1)
    if count > MAX_SCANS:
        raise TooLarge(
            f"the JPEG image has more than {MAX_SCANS} scans; at most {MAX_SCANS} are accepted", param="image"
        )


def num_scans(data: bytes, *, stop_at: int) -> int:
    """Number of scans of the first image in a JPEG file, counted up to `stop_at`. Thumbnails do not count."""
    scans, position = 0, 2
    while scans < stop_at and (match := _MARKER.search(data, position)):
        marker = match[1][0]
        if marker == _END_OF_IMAGE:
            break
        scans += marker == _START_OF_SCAN
        position = match.end() + max(2, int.from_bytes(data[match.end() : match.end() + 2], "big"))
    return scans
