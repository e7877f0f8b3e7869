"""Metadata of an image file: EXIF and XMP, which hold the orientation, and limits on the size of all metadata."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final

from fovea.errors import TooLarge

__all__ = ["MAX_BYTES", "MAX_PIECES", "ImageMetadata", "MetadataKind"]

MAX_BYTES: Final = 8 * 2**20
"""Most bytes of metadata of one kind, compressed as in the file. ICC profiles of printers and depth maps in the XMP of
phones have some megabytes."""
MAX_PIECES: Final = 65_536
"""Most chunks, segments or blocks of a file, of all kinds together. Each takes a step of the interpreter."""


class MetadataKind(StrEnum):
    """Kind of metadata, by its name in error texts."""

    EXIF = "EXIF"
    ICC = "ICC profile"
    XMP = "XMP"
    TEXT = "text"
    OTHER = "other metadata"


class ImageMetadata:
    """Metadata of one file, with a count of their size.

    Attributes:
        exif: EXIF block from its byte order mark on; empty for none.
        xmp: XMP packet; empty for none.
    """

    def __init__(self) -> None:
        self.exif = b""
        self.xmp = b""
        self._bytes: Counter[str] = Counter()
        self._pieces = 0

    def count(self, kind: MetadataKind, size: int) -> None:
        """Counts a piece of metadata of `size` bytes.

        Raises:
            TooLarge: the file has more than `MAX_BYTES` of the kind, or more than `MAX_PIECES`.
        """
        self._bytes[kind] += size
        if self._bytes[kind] > MAX_BYTES:
            raise TooLarge(
                f"the image has more than {MAX_BYTES:,} bytes of {kind}; at most that many are accepted", param="image"
            )
        self.count_piece()

    def count_piece(self) -> None:
        """Counts a piece without metadata.

        Raises:
            TooLarge: the file has more than `MAX_PIECES`.
        """
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise TooLarge(
                f"the image file is cut into more than {MAX_PIECES:,} pieces of data and metadata;"
                " at most that many are accepted",
                param="image",
            )
