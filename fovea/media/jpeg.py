"""JPEG files without metadata: segments that the pixels depend on are kept, all others are skipped unread.

Phones write files of several images. Without its index of images (MPF) such a file is an ordinary JPEG of the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from fovea.errors import UnsupportedMedia
from fovea.media.metadata import ImageMetadata, MetadataKind

__all__ = ["FRAMES", "PROGRESSIVE", "SIGNATURE", "START_OF_SCAN", "segments", "without_metadata"]

SIGNATURE: Final = b"\xff\xd8\xff"
START_OF_SCAN: Final = 0xDA
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segments with the size of the image."""
PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_COMMENT: Final = 0xFE
_APPLICATION: Final = range(0xE0, 0xF0)
# Marker of a segment with a length. Bytes between segments are padding.
_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")
_SEARCH_BYTES: Final = 2**18
_EXIF_START: Final = b"Exif\0\0"
_XMP_START: Final = b"http://ns.adobe.com/xap/1.0/\0"
_STARTS: Final = (
    (_EXIF_START, MetadataKind.EXIF),
    (_XMP_START, MetadataKind.XMP),
    (b"http://ns.adobe.com/xmp/extension/\0", MetadataKind.XMP),
    (b"ICC_PROFILE\0", MetadataKind.ICC),
)
# Application segments that define the colour space.
_COLOUR_STARTS: Final = (b"JFIF\0", b"Adobe")


def segments(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Marker of each segment, and its bytes from there. The last one is the rest of the file from its first scan on."""
    view = memoryview(data)
    position = 2
    while (start := _find_marker(data, position)) is not None:
        marker = data[start + 1]
        if marker == START_OF_SCAN or start + 4 > len(data):
            yield marker, view[start:]
            return
        position = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker, view[start:position]


def _find_marker(data: bytes, position: int) -> int | None:
    """Start of the next marker. The search goes in steps, since other threads wait while one step runs."""
    for start in range(position, len(data), _SEARCH_BYTES):
        if match := _MARKER.search(data, start, start + _SEARCH_BYTES + 1):
            return match.start()
    return None


def without_metadata(data: bytes, metadata: ImageMetadata) -> bytes:
    """A JPEG file of the same pixels without comments and application segments, except those that define its colours.

    Args:
        data: JPEG file.
        metadata: metadata of the file, filled here.

    Raises:
        TooLarge: the file has more metadata or more segments than accepted.
        UnsupportedMedia: samples have 12 bits, or the coding is lossless or hierarchical.
    """
    kept: list[bytes | memoryview] = [data[:2]]
    exif: list[memoryview] = []
    for marker, segment in segments(data):
        content = segment[4:]
        if marker in FRAMES:
            _check_coding(marker, content)
        if marker != START_OF_SCAN and _is_metadata(marker, content):
            _read_metadata(metadata, marker, content, exif)
        else:
            metadata.count_piece()
            kept.append(segment)
    metadata.exif = b"".join(exif)
    return b"".join(kept)


def _is_metadata(marker: int, content: memoryview) -> bool:
    return marker == _COMMENT or (marker in _APPLICATION and not bytes(content[:5]).startswith(_COLOUR_STARTS))


def _read_metadata(metadata: ImageMetadata, marker: int, content: memoryview, exif: list[memoryview]) -> None:
    """Counts a skipped segment, and keeps EXIF and XMP, which hold the orientation."""
    start = bytes(content[:40])
    kind = next((kind for known, kind in _STARTS if start.startswith(known)), MetadataKind.OTHER)
    metadata.count(MetadataKind.TEXT if marker == _COMMENT else kind, len(content))
    if marker == _COMMENT:
        return
    if start.startswith(_EXIF_START):  # EXIF of more than 64 KiB continues in the next segment
        exif.append(content[len(_EXIF_START) :])
    elif start.startswith(_XMP_START):
        metadata.xmp = bytes(content[len(_XMP_START) :])


def _check_coding(marker: int, content: memoryview) -> None:
    accepted = "accepted: JPEG of 8 bits, baseline or progressive"
    if content and content[0] != 8:
        raise UnsupportedMedia(f"the JPEG image has {content[0]} bits per sample; {accepted}", param="image")
    if marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        raise UnsupportedMedia(f"the JPEG image has lossless or hierarchical coding; {accepted}", param="image")
