"""PNG files without metadata: chunks that the pixels depend on are kept, all others are skipped unread.

Colour profiles and texts may be compressed. They are dropped without inflating them, so a broken one does not spoil the
image. As in libpng, an ancillary chunk with a wrong checksum counts as absent.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from fovea.media.metadata import MAX_BYTES, ImageMetadata, MetadataKind

__all__ = ["SIGNATURE", "without_metadata"]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_KINDS: Final = {
    b"iCCP": MetadataKind.ICC,
    b"eXIf": MetadataKind.EXIF,
    b"tEXt": MetadataKind.TEXT,
    b"zTXt": MetadataKind.TEXT,
    b"iTXt": MetadataKind.TEXT,
}
_GREY, _RGB, _PALETTE = 0, 2, 3
_START_BYTES: Final = 24
# An XMP packet that is not compressed.
_XMP_START: Final = b"iTXtXML:com.adobe.xmp\0\0"
# EXIF as ImageMagick writes it in a PNG: hexadecimal digits after three short lines.
_RAW_EXIF_STARTS: Final = (b"tEXtRaw profile type exif\0", b"zTXtRaw profile type exif\0")
_MAX_RAW_EXIF: Final = 3 * MAX_BYTES


@dataclass(slots=True)
class _KeptChunks:
    """Chunks that the pixels depend on, in the order of the file format."""

    header: bytes = b""
    palette: bytes = b""
    transparency: bytes = b""
    pixels: list[memoryview] = field(default_factory=list)

    def file(self) -> bytes:
        pixels = _chunk(b"IDAT", *self.pixels) if self.pixels else b""
        return b"".join((SIGNATURE, self.header, self.palette, self.transparency, pixels, _chunk(b"IEND")))


def without_metadata(data: bytes, metadata: ImageMetadata) -> bytes:
    """A PNG file of the same pixels with header, palette, transparency and pixel data only.

    An animation is reduced to its default image.

    Args:
        data: PNG file.
        metadata: metadata of the file, filled here.

    Raises:
        TooLarge: the file has more metadata or more chunks than accepted.
    """
    kept = _KeptChunks()
    for kind, content, whole in _chunks(data):
        if kind == b"IDAT":
            metadata.count_piece()
            kept.pixels.append(content)
        elif kind == b"IHDR" or kind == b"PLTE":
            metadata.count_piece()
            _keep_critical(kept, kind, bytes(whole))
        elif kind == b"tRNS":
            metadata.count_piece()
            if not kept.transparency and not kept.pixels and _has_valid_checksum(whole):
                kept.transparency = _transparency(kept, bytes(content))
        elif kind == b"IEND":
            break
        else:
            _read_metadata(metadata, kind, content, whole)
    return kept.file()


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Kind, content, and whole chunk (with length and checksum) of each chunk. The last chunk may be cut off."""
    view = memoryview(data)
    start = len(SIGNATURE)
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        yield bytes(view[start + 4 : start + 8]), view[start + 8 : end - 4], view[start:end]
        start = end


def _keep_critical(kept: _KeptChunks, kind: bytes, whole: bytes) -> None:
    """Keeps a chunk with its checksum, which the decoder verifies."""
    if kind == b"IHDR":
        kept.header = kept.header or whole
    elif not kept.pixels:
        kept.palette = kept.palette or whole


def _transparency(kept: _KeptChunks, content: bytes) -> bytes:
    """tRNS chunk for Pillow, which compares the transparent colour after samples of 1, 2 or 4 bits became 8 bits."""
    depth, colour = kept.header[16:18].ljust(2, b"\0")
    if colour == _PALETTE and kept.palette:
        return _chunk(b"tRNS", content)
    if len(content) != {_GREY: 2, _RGB: 6}.get(colour) or not depth:
        return b""
    # A file may hold more than `depth` bits here; only the lower `depth` bits count.
    largest = (1 << depth) - 1
    values = [value & largest for value in struct.unpack(f">{len(content) // 2}H", content)]
    if depth < 8:
        values = [value * 255 // largest for value in values]
    return _chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def _read_metadata(metadata: ImageMetadata, kind: bytes, content: memoryview, whole: memoryview) -> None:
    """Counts a skipped chunk, and keeps EXIF and XMP, which hold the orientation."""
    start = kind + bytes(content[:_START_BYTES])
    is_xmp = start.startswith(_XMP_START)
    metadata.count(MetadataKind.XMP if is_xmp else _KINDS.get(kind, MetadataKind.OTHER), len(content))
    if not start.startswith((b"eXIf", _XMP_START, *_RAW_EXIF_STARTS)) or not _has_valid_checksum(whole):
        return
    if is_xmp:
        metadata.xmp = bytes(content)
    elif kind == b"eXIf":
        metadata.exif = bytes(content)
    elif not metadata.exif:
        metadata.exif = _raw_exif(bytes(content).partition(b"\0")[2], metadata, is_deflated=kind == b"zTXt")


def _raw_exif(text: bytes, metadata: ImageMetadata, *, is_deflated: bool) -> bytes:
    try:
        if is_deflated:
            text = zlib.decompressobj().decompress(text[1:], _MAX_RAW_EXIF)
        digits = b"".join(text.split(b"\n")[3:])
        metadata.count(MetadataKind.EXIF, len(digits) // 2)
        return bytes.fromhex(digits.decode("ascii")).removeprefix(b"Exif\0\0")
    except (zlib.error, ValueError):
        return b""


def _has_valid_checksum(whole: memoryview) -> bool:
    return zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")


def _chunk(kind: bytes, *contents: bytes | memoryview) -> bytes:
    checksum = zlib.crc32(kind)
    for content in contents:
        checksum = zlib.crc32(content, checksum)
    size = sum(map(len, contents))
    return b"".join((struct.pack(">I", size), kind, *contents, struct.pack(">I", checksum)))
