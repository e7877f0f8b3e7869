"""PNG: chunks that matter to the pixels are kept, all others are skipped unread.

Colour profiles and texts may be compressed. They are dropped as they are: none is inflated, and a broken one does not
spoil the image. As in libpng an ancillary chunk whose checksum is wrong counts as absent.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from fovea.media import metadata as kinds
from fovea.media.metadata import Metadata

__all__ = ["SIGNATURE", "without_metadata"]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_KINDS: Final = {
    b"iCCP": kinds.ICC,
    b"eXIf": kinds.EXIF,
    b"tEXt": kinds.TEXT,
    b"zTXt": kinds.TEXT,
    b"iTXt": kinds.TEXT,
}
_GREY, _RGB, _PALETTE = 0, 2, 3
_START_BYTES: Final = 24
# The one that is not compressed.
_XMP_START: Final = b"iTXtXML:com.adobe.xmp\0\0"
# ImageMagick's way to keep EXIF in a PNG: hexadecimal digits behind three short lines.
_RAW_EXIF_STARTS: Final = (b"tEXtRaw profile type exif\0", b"zTXtRaw profile type exif\0")
_MAX_RAW_EXIF: Final = 3 * kinds.MAX_BYTES


@dataclass(slots=True)
class _Kept:
    """The chunks that matter, in the order in which they belong."""

    header: bytes = b""
    palette: bytes = b""
    transparency: bytes = b""
    pixels: list[memoryview] = field(default_factory=list)

    def file(self) -> bytes:
        pixels = _chunk(b"IDAT", *self.pixels) if self.pixels else b""
        return b"".join((SIGNATURE, self.header, self.palette, self.transparency, pixels, _chunk(b"IEND")))


def without_metadata(data: bytes, metadata: Metadata) -> bytes:
    """A PNG of the same pixels with nothing but header, palette, transparency and pixel data.

    What orientation is read from goes to `metadata`. Of an animation the default image is left.

    Raises:
        TooLarge: More metadata or more chunks than is accepted.
    """
    kept = _Kept()
    for kind, content, whole in _chunks(data):
        if kind == b"IDAT":
            metadata.count_piece()
            kept.pixels.append(content)
        elif kind == b"IHDR" or kind == b"PLTE":
            metadata.count_piece()
            _keep_critical(kept, kind, bytes(whole))
        elif kind == b"tRNS":
            metadata.count_piece()
            if not kept.transparency and not kept.pixels and _is_sound(whole):
                kept.transparency = _transparency(kept, bytes(content))
        elif kind == b"IEND":
            break
        else:
            _note(metadata, kind, content, whole)
    return kept.file()


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Kind, content, and the whole chunk with length and checksum. The last may be cut off."""
    view = memoryview(data)
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        yield bytes(view[at + 4 : at + 8]), view[at + 8 : end - 4], view[at:end]
        at = end


def _keep_critical(kept: _Kept, kind: bytes, whole: bytes) -> None:
    """With the checksum of the file, which the decoder checks."""
    if kind == b"IHDR":
        kept.header = kept.header or whole
    elif not kept.pixels:
        kept.palette = kept.palette or whole


def _transparency(kept: _Kept, content: bytes) -> bytes:
    """The tRNS chunk as Pillow wants it: it compares what it stands for after 1, 2 or 4 bits were spread to 8."""
    depth, colour = kept.header[16:18].ljust(2, b"\0")
    if colour == _PALETTE and kept.palette:
        return _chunk(b"tRNS", content)
    if len(content) != {_GREY: 2, _RGB: 6}.get(colour) or not depth:
        return b""
    # A file may hold more than `depth` bits here; only those count.
    most = (1 << depth) - 1
    values = [value & most for value in struct.unpack(f">{len(content) // 2}H", content)]
    if depth < 8:
        values = [value * 255 // most for value in values]
    return _chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def _note(metadata: Metadata, kind: bytes, content: memoryview, whole: memoryview) -> None:
    """Counts a chunk that is skipped, and keeps what tells of orientation."""
    start = kind + bytes(content[:_START_BYTES])
    is_xmp = start.startswith(_XMP_START)
    metadata.count(kinds.XMP if is_xmp else _KINDS.get(kind, kinds.OTHER), len(content))
    if not start.startswith((b"eXIf", _XMP_START, *_RAW_EXIF_STARTS)) or not _is_sound(whole):
        return
    if is_xmp:
        metadata.xmp = bytes(content)
    elif kind == b"eXIf":
        metadata.exif = bytes(content)
    elif not metadata.exif:
        metadata.exif = _raw_exif(bytes(content).partition(b"\0")[2], metadata, is_packed=kind == b"zTXt")


def _raw_exif(text: bytes, metadata: Metadata, *, is_packed: bool) -> bytes:
    try:
        if is_packed:
            text = zlib.decompressobj().decompress(text[1:], _MAX_RAW_EXIF)
        digits = b"".join(text.split(b"\n")[3:])
        metadata.count(kinds.EXIF, len(digits) // 2)
        return bytes.fromhex(digits.decode("ascii")).removeprefix(b"Exif\0\0")
    except (zlib.error, ValueError):
        return b""


def _is_sound(whole: memoryview) -> bool:
    return zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")


def _chunk(kind: bytes, *contents: bytes | memoryview) -> bytes:
    checksum = zlib.crc32(kind)
    for content in contents:
        checksum = zlib.crc32(content, checksum)
    size = sum(map(len, contents))
    return b"".join((struct.pack(">I", size), kind, *contents, struct.pack(">I", checksum)))
