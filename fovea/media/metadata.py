"""Metadata of an image file: how much is skipped, and the little of it that is read."""

from __future__ import annotations

from collections import Counter
from typing import Final

from fovea.errors import TooLarge

__all__ = ["EXIF", "ICC", "MAX_BYTES", "MAX_PIECES", "OTHER", "TEXT", "XMP", "Metadata"]

EXIF: Final = "EXIF"
ICC: Final = "ICC profile"
XMP: Final = "XMP"
TEXT: Final = "text"
OTHER: Final = "other metadata"

# Of each kind, as it lies in the file: nothing of it is inflated. ICC profiles of printers and depth maps in the XMP of
# phones reach some megabytes.
MAX_BYTES: Final = 8 * 2**20
# Chunks, segments or blocks of all kinds together. Each costs a step of the interpreter.
MAX_PIECES: Final = 65_536


class Metadata:
    """A count of the metadata in one file.

    Attributes:
        exif: The EXIF block, from its byte order mark on; empty where there is none.
        xmp: The XMP packet; empty where there is none.
    """

    def __init__(self) -> None:
        self.exif = b""
        self.xmp = b""
        self._bytes: Counter[str] = Counter()
        self._pieces = 0

    def count(self, kind: str, size: int) -> None:
        """Adds a piece of a kind and of `size` bytes.

        Raises:
            TooLarge: Above `MAX_BYTES` of the kind, or above `MAX_PIECES`.
        """
        self._bytes[kind] += size
        if self._bytes[kind] > MAX_BYTES:
            raise TooLarge(
                f"the image has more than {MAX_BYTES:,} bytes of {kind}; at most that many are accepted", param="image"
            )
        self.count_piece()

    def count_piece(self) -> None:
        """Adds a piece that is no metadata.

        Raises:
            TooLarge: Above `MAX_PIECES`.
        """
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise TooLarge(
                f"the image file is cut into more than {MAX_PIECES:,} pieces of data and metadata;"
                " at most that many are accepted",
                param="image",
            )
