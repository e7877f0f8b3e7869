"""GIF files without metadata: comments and application blocks before the first frame are skipped unread."""

from __future__ import annotations

from typing import Final

from fovea.media.metadata import ImageMetadata, MetadataKind

__all__ = ["SIGNATURES", "first_frame", "without_metadata"]

SIGNATURES: Final = (b"GIF87a", b"GIF89a")

_EXTENSION: Final = 0x21
_CONTROL: Final = 0xF9
_FRAME: Final = 0x2C
_END: Final = 0x3B
_FRAME_BYTES: Final = 10
_KINDS: Final = {0xFE: MetadataKind.TEXT, 0x01: MetadataKind.TEXT}
_XMP_START: Final = b"\x0bXMP DataXMP"


def without_metadata(data: bytes, metadata: ImageMetadata) -> bytes:
    """A GIF file without the metadata before its first frame; what follows the frame stays.

    Args:
        data: GIF file.
        metadata: metadata of the file, filled here.

    Raises:
        TooLarge: the file has more metadata or more blocks than accepted.
    """
    view = memoryview(data)
    position = header_end = 13 + _palette_bytes(data)
    control = view[:0]
    while position + 2 < len(data) and data[position] == _EXTENSION:
        label = data[position + 1]
        end = _end_of_blocks(data, position + 2, metadata)
        if label == _CONTROL:
            control = view[position:end]
        else:
            is_xmp = data.startswith(_XMP_START, position + 2)
            kind = MetadataKind.XMP if is_xmp else _KINDS.get(label, MetadataKind.OTHER)
            metadata.count(kind, end - position)
        position = end
    return b"".join((view[:header_end], control, view[position:]))


def first_frame(data: bytes, metadata: ImageMetadata) -> int | None:
    """Position of the first frame's descriptor, which is whole; None where there is none.

    Args:
        data: GIF file.
        metadata: count of the blocks before the frame.

    Raises:
        TooLarge: there are more blocks, or bytes between them, than accepted.
    """
    position = 13 + _palette_bytes(data)
    while position + _FRAME_BYTES <= len(data) and data[position] != _END:
        if data[position] == _FRAME:
            return position
        metadata.count_piece()  # other bytes between blocks are skipped, as Pillow does
        position = _end_of_blocks(data, position + 2, metadata) if data[position] == _EXTENSION else position + 1
    return None


def _palette_bytes(data: bytes) -> int:
    flags = data[10] if len(data) > 10 else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_blocks(data: bytes, position: int, metadata: ImageMetadata) -> int:
    """End of a chain of blocks, each of which starts with its size. The last block is empty."""
    while position < len(data) and data[position]:
        metadata.count_piece()
        position += 1 + data[position]
    return position + 1
