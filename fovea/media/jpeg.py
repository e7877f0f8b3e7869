"""JPEG: segments that matter to the pixels are kept, all others are skipped unread.

Without its index of further images (MPF) a file of several, as phones write, is an ordinary JPEG of the first.
"""

from __future__ import annotations

import re
from typing import Final

from fovea.errors import UnsupportedMedia
from fovea.media import metadata as kinds
from fovea.media.metadata import Metadata

__all__ = ["SIGNATURE", "without_metadata"]

SIGNATURE: Final = b"\xff\xd8\xff"

_START_OF_SCAN: Final = 0xDA
_COMMENT: Final = 0xFE
_APPLICATION: Final = range(0xE0, 0xF0)
# One that has a length; what stands between is padding, or belongs to no segment.
_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_EXIF_START: Final = b"Exif\0\0"
_XMP_START: Final = b"http://ns.adobe.com/xap/1.0/\0"
_STARTS: Final = (
    (_EXIF_START, kinds.EXIF),
    (_XMP_START, kinds.XMP),
    (b"http://ns.adobe.com/xmp/extension/\0", kinds.XMP),
    (b"ICC_PROFILE\0", kinds.ICC),
)
# They tell in which colours the components are.
_COLOUR_STARTS: Final = (b"JFIF\0", b"Adobe")


def without_metadata(data: bytes, metadata: Metadata) -> bytes:
    """A JPEG of the same pixels without comments and application segments, but for those that tell its colours.

    What orientation is read from goes to `metadata`.

    Raises:
        TooLarge: More metadata or more segments than is accepted.
        UnsupportedMedia: 12 bits a sample, or lossless or hierarchical coding.
    """
    view = memoryview(data)
    kept = [view[:2]]
    exif: list[memoryview] = []
    at = 2
    while found := _MARKER.search(data, at):
        at, marker = found.start(), data[found.start() + 1]
        if marker == _START_OF_SCAN or at + 4 > len(data):
            kept.append(view[at:])
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        content = view[at + 4 : end]
        if marker in _FRAMES:
            _check_coding(marker, content)
        if _is_metadata(marker, content):
            _note(metadata, marker, content, exif)
        else:
            metadata.count_piece()
            kept.append(view[at:end])
        at = end
    metadata.exif = b"".join(exif)
    return b"".join(kept)


def _is_metadata(marker: int, content: memoryview) -> bool:
    return marker == _COMMENT or (marker in _APPLICATION and not bytes(content[:5]).startswith(_COLOUR_STARTS))


def _note(metadata: Metadata, marker: int, content: memoryview, exif: list[memoryview]) -> None:
    """Counts a segment that is skipped, and keeps what tells of orientation."""
    start = bytes(content[:40])
    kind = next((kind for known, kind in _STARTS if start.startswith(known)), kinds.OTHER)
    metadata.count(kinds.TEXT if marker == _COMMENT else kind, len(content))
    if marker == _COMMENT:
        return
    if start.startswith(_EXIF_START):  # one of more than 64 KiB goes on in the next segment
        exif.append(content[len(_EXIF_START) :])
    elif start.startswith(_XMP_START):
        metadata.xmp = bytes(content[len(_XMP_START) :])


def _check_coding(marker: int, content: memoryview) -> None:
    accepted = "accepted: JPEG of 8 bits, baseline or progressive"
    if content and content[0] != 8:
        raise UnsupportedMedia(f"the JPEG image has {content[0]} bits a sample; {accepted}", param="image")
    if marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        raise UnsupportedMedia(f"the JPEG image is of lossless or hierarchical coding; {accepted}", param="image")
