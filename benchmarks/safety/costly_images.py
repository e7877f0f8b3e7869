"""Image files that cost much for their bytes, written byte by byte where an encoder would not write them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from PIL import Image

__all__ = [
    "COSTLY_IMAGES",
    "bmp_of_runs",
    "jpeg_of_scans",
    "one_colour_gif",
    "one_colour_webp",
    "png",
    "webp_of_prefix_codes",
]

Size: TypeAlias = tuple[int, int]

_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6
_CHANNELS: Final = {_GREY: 1, _RGB: 3, _PALETTE: 1, _RGBA: 4}
_REVERSED: Final = [int(f"{value:08b}"[::-1], 2) for value in range(256)]
_TURNED: Final = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
_PNG_METADATA: Final = 8 * 2**20


def one_colour_webp(size: Size) -> bytes:
    """A lossless WebP of 28 bytes: each of its five prefix codes has one symbol, so a pixel takes no bit."""
    width, height = size
    code = 0b0001  # simple, one symbol, of one bit, which is 0
    bits = sum(code << 3 + 4 * number for number in range(5))  # no transform, no colour cache, one group of codes
    stream = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bits.to_bytes(3, "little")
    body = b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_of_prefix_codes(size: Size, groups: int = 65_536) -> bytes:
    """A lossless WebP with groups of prefix codes: 3 bytes each in the file, 12 kB each in the decoder."""
    width, height = size
    bits = _Bits()
    bits.write(0b00100, 5)  # no transform, no colour cache, groups by place
    bits.write(0, 2)  # in blocks of 4 x 4 pixels
    bits.write(0, 1)
    for symbols, unused in ((256, 24), (256, 0)):  # green and red of the image of groups, 8 bits a symbol
        bits.write(0, 1)
        bits.write(12 - 4, 4)
        for length in (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8):
            bits.write(1 if length in (0, 8) else 0, 3)
        bits.write(0, 1)
        bits.write((1 << symbols) - 1, symbols)
        bits.write(0, unused)
    for _ in range(3):
        bits.write(0b0001, 4)
    for place in range(-(-width // 4) * -(-height // 4)):
        group = place % groups
        bits.write(_REVERSED[group & 0xFF], 8)
        bits.write(_REVERSED[group >> 8], 8)
    for _ in range(5 * groups):
        bits.write(0b0001, 4)
    stream = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bits.content()
    stream += bytes(len(stream) % 2)
    body = b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream
    return b"RIFF" + struct.pack("<I", len(body)) + body


class _Bits:
    """Writer of numbers of some bits, the lowest bit first."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._value = self._used = 0

    def write(self, value: int, bits: int) -> None:
        self._value |= value << self._used
        self._used += bits
        while self._used >= 8:
            self._out.append(self._value & 0xFF)
            self._value >>= 8
            self._used -= 8

    def content(self) -> bytes:
        """All bytes, the last one filled up with zeros."""
        return bytes(self._out) + (bytes([self._value]) if self._used else b"")


def png(size: Size, colour: int, depth: int, *, interlaced: bool = False, before: bytes = b"") -> bytes:
    """A PNG of zeros, deflated as far as it goes, with other chunks `before` its pixels."""
    width, height = size
    row_bytes = 1 + (width * _CHANNELS[colour] * depth + 7) // 8
    # An interlaced image has about as many bytes in its seven passes; a decoder ignores what is too much.
    total = row_bytes * height + (16 * height + 64 if interlaced else 0)
    deflate = zlib.compressobj(9)
    pixels = b"".join((*(deflate.compress(bytes(step)) for step in _steps(total)), deflate.flush()))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    palette = _chunk(b"PLTE", bytes(range(48))) if colour == _PALETTE else b""
    parts = (_chunk(b"IHDR", header), palette, before, _chunk(b"IDAT", pixels), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def one_colour_gif(size: Size, *, canvas: Size | None = None, offset: Size = (0, 0)) -> bytes:
    """A GIF whose frame repeats one colour in the longest runs that LZW can write."""
    width, height = size
    canvas_size = struct.pack("<HH", *(canvas or size))
    codes = _lzw_of_zeros(width * height)
    blocks = b"".join(bytes([len(codes[at : at + 255])]) + codes[at : at + 255] for at in range(0, len(codes), 255))
    frame = b"," + struct.pack("<HHHHB", *offset, width, height, 0) + b"\x02" + blocks + b"\0"
    return b"GIF89a" + canvas_size + b"\x80\0\0" + b"\x10\x20\x30\xff\xff\xff" + frame + b";"


def bmp_of_runs(size: Size) -> bytes:
    """A BMP of 8 bits in runs of 255 pixels (RLE8)."""
    width, height = size
    row = b"\xff\x01" * (width // 255) + bytes([width % 255, 1]) * bool(width % 255) + b"\0\0"
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(row) * height, 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    data = row * height + b"\0\1"
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def jpeg_of_scans(size: Size, scans: int) -> bytes:
    """A progressive JPEG of one colour whose last scan is repeated until there are `scans`."""
    file = io.BytesIO()
    Image.new("RGB", size, (90, 120, 150)).save(file, "JPEG", progressive=True, quality=50)
    data = file.getvalue()
    last = data.rfind(b"\xff\xda")
    table = data.rfind(b"\xff\xc4", 0, last)
    return data[:-2] + data[table:-2] * max(0, scans - data.count(b"\xff\xda")) + data[-2:]


def _saved(form: str, mode: str = "RGB", **options: Any) -> Callable[[Size], bytes]:
    def make(size: Size) -> bytes:
        file = io.BytesIO()
        Image.new(mode, size, 90 if len(mode) == 1 else (90, 120, 150, 7)[: len(mode)]).save(file, form, **options)
        return file.getvalue()

    return make


def _segments(marker: int, start: bytes, size: int) -> bytes:
    """Segments of a JPEG file with `size` bytes of zeros in all."""
    segment = bytes([0xFF, marker]) + struct.pack(">H", 65_535) + start.ljust(65_533, b"\0")
    return segment * (size // 65_533)


def _with_segments(size: Size, segments: bytes) -> bytes:
    file = _saved("JPEG")(size)
    return file[:2] + segments + file[2:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _bomb(mebibytes: int) -> bytes:
    deflate = zlib.compressobj(9)
    return b"".join((*(deflate.compress(bytes(2**20)) for _ in range(mebibytes)), deflate.flush()))


def _steps(total: int) -> Iterator[int]:
    while total > 0:
        yield min(total, 2**20)
        total -= 2**20


def _lzw_of_zeros(count: int) -> bytes:
    """LZW codes of 2 bits that stand for `count` zeros; the table is cleared whenever it is full."""
    bits = _Bits()
    clear, end, left = 4, 5, count
    while left > 0:
        bits.write(clear, 3)
        following, run, width = 6, 1, 3
        bits.write(0, width)
        left -= 1
        while left > 0 and following < 4095:
            run += 1
            if run > left:
                break
            bits.write(following, width)  # the string of the last code and one more zero
            left -= run
            following += 1
            width = min(12, max(width, following.bit_length()))
        while 0 < left < run:  # the rest, one by one
            bits.write(0, width)
            left -= 1
            following = min(4095, following + 1)
            width = min(12, max(width, following.bit_length()))
    bits.write(end, width)
    return bits.content()


COSTLY_IMAGES: Final[dict[str, tuple[str, Callable[[Size], bytes]]]] = {
    "WebP lossless, one colour": ("pixels", one_colour_webp),
    "WebP lossy, one colour": ("pixels", _saved("WEBP", quality=0, method=0)),
    "WebP lossless with alpha": ("pixels", _saved("WEBP", "RGBA", lossless=True)),
    "WebP animated": (
        "pixels; one frame is decoded",
        lambda size: _saved("WEBP", save_all=True, append_images=[Image.new("RGB", size, "red")] * 3, lossless=True)(
            size
        ),
    ),
    "WebP of 65,536 prefix codes": ("memory of a worker", lambda size: webp_of_prefix_codes((1024, 1024))),
    "PNG of 1 bit": ("pixels", lambda size: png(size, _GREY, 1)),
    "PNG with palette": ("pixels", lambda size: png(size, _PALETTE, 4)),
    "PNG of RGB": ("pixels", lambda size: png(size, _RGB, 8)),
    "PNG with alpha": ("pixels", lambda size: png(size, _RGBA, 8)),
    "PNG of 16 bits": ("pixels", lambda size: png(size, _RGBA, 16)),
    "PNG of 16 bits, grey": ("pixels", lambda size: png(size, _GREY, 16)),
    "PNG of 16 bits, transparent colour": (
        "pixels",
        lambda size: png(size, _RGB, 16, before=_chunk(b"tRNS", bytes(6))),
    ),
    "PNG interlaced": ("pixels", lambda size: png(size, _RGBA, 8, interlaced=True)),
    "PNG turned by EXIF": ("pixels", lambda size: png(size, _RGBA, 8, before=_chunk(b"eXIf", _TURNED[6:]))),
    "PNG with zTXt of 1 GiB": (
        "metadata is not inflated",
        lambda size: png(size, _RGB, 8, before=_chunk(b"zTXt", b"key\0\0" + _bomb(1024))),
    ),
    "PNG with iCCP of 1 GiB": (
        "metadata is not inflated",
        lambda size: png(size, _RGB, 8, before=_chunk(b"iCCP", b"name\0\0" + _bomb(1024))),
    ),
    "PNG with EXIF of ImageMagick": (
        "8 MiB of EXIF, inflated",
        lambda size: png((8, 8), _RGB, 8, before=_chunk(b"zTXt", b"Raw profile type exif\0\0" + _bomb(1024))),
    ),
    "PNG with 65,000 chunks": (
        "65,536 pieces",
        lambda size: png((8, 8), _RGB, 8, before=_chunk(b"tEXt", b"") * 65_000),
    ),
    "JPEG baseline": ("pixels", _saved("JPEG", quality=1)),
    "JPEG grey": ("pixels", _saved("JPEG", "L", quality=1)),
    "JPEG CMYK": ("pixels", _saved("JPEG", "CMYK", quality=1)),
    "JPEG turned by EXIF": ("pixels", _saved("JPEG", quality=1, exif=_TURNED)),
    "JPEG progressive": ("pixels", _saved("JPEG", quality=1, progressive=True)),
    "JPEG progressive, 4:4:4 CMYK": ("pixels", _saved("JPEG", "CMYK", progressive=True, subsampling=0)),
    "JPEG of 100 scans": ("100 scans; the time limit", lambda size: jpeg_of_scans(size, 100)),
    "JPEG of 1,000 scans": ("100 scans", lambda size: jpeg_of_scans((800, 800), 1000)),
    "JPEG with 8 MiB of EXIF": (
        "8 MiB of each kind",
        lambda size: _with_segments((8, 8), _segments(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", _PNG_METADATA - 2**17)),
    ),
    "JPEG with 8 MiB of XMP": (
        "8 MiB of each kind",
        lambda size: _with_segments(
            (8, 8), _segments(0xE1, b"http://ns.adobe.com/xap/1.0/\0tiff:Orientation", _PNG_METADATA - 2**17)
        ),
    ),
    "JPEG of 4 million segments": (
        "65,536 pieces",
        lambda size: _with_segments((8, 8), b"\xff\xe1\0\2" * (4 * 2**20 - 1000)),
    ),
    "JPEG with 16 MiB of padding": ("bytes", lambda size: _with_segments((8, 8), b"\xff" * (16 * 2**20 - 2000))),
    "GIF of one colour": ("pixels", one_colour_gif),
    "GIF with a frame outside its canvas": (
        "pixels",
        lambda size: one_colour_gif((8, 8), canvas=(1, 1), offset=(size[0] - 8, size[1] - 8)),
    ),
    "GIF of 8 million blocks": (
        "65,536 pieces",
        lambda size: b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe" + b"\1a" * (8 * 2**20 - 100) + b"\0",
    ),
    "BMP of runs": ("pixels", bmp_of_runs),
    "BMP of 1 bit": ("pixels", _saved("BMP", "1")),
    "strip of 1 x 100": ("the size to which it is resized", lambda size: png((1, 100), _GREY, 1)),
}
"""For each kind what bounds its cost, and a function from width and height to a file."""
