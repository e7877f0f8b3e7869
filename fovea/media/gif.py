"""GIF: comments and application blocks before the first frame are skipped unread."""

from __future__ import annotations

from typing import Final

from fovea.media import metadata as kinds
from fovea.media.metadata import Metadata

__all__ = ["SIGNATURES", "without_metadata"]

SIGNATURES: Final = (b"GIF87a", b"GIF89a")

_EXTENSION: Final = 0x21
_CONTROL: Final = 0xF9
_KINDS: Final = {0xFE: kinds.TEXT, 0x01: kinds.TEXT}
_XMP_START: Final = b"\x0bXMP DataXMP"


def without_metadata(data: bytes, metadata: Metadata) -> bytes:
    """A GIF with the same first frame, its header and its control block, and what follows as it is.

    Raises:
        TooLarge: More metadata or more blocks than is accepted.
    """
    view = memoryview(data)
    at = start = 13 + _palette_bytes(data)
    control = view[:0]
    while at + 2 < len(data) and data[at] == _EXTENSION:
        label = data[at + 1]
        end = _end_of_blocks(data, at + 2, metadata)
        if label == _CONTROL:
            control = view[at:end]
        else:
            is_xmp = data.startswith(_XMP_START, at + 2)
            metadata.count(kinds.XMP if is_xmp else _KINDS.get(label, kinds.OTHER), end - at)
        at = end
    return b"".join((view[:start], control, view[at:]))


def _palette_bytes(data: bytes) -> int:
    flags = data[10] if len(data) > 10 else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_blocks(data: bytes, at: int, metadata: Metadata) -> int:
    """Where a chain of blocks ends, each led by its size and the last empty."""
    while at < len(data) and data[at]:
        metadata.count_piece()
        at += 1 + data[at]
    return at + 1
