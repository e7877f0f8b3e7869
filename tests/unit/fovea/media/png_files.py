"""PNG files written chunk by chunk, of every colour type, depth and interlacing."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

__all__ = ["CHANNELS", "DEPTHS", "GREY", "GREY_ALPHA", "PALETTE", "RGB", "RGBA", "chunk", "insert", "png"]

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
# Adam7: first column, first row, step of columns, step of rows.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

Samples = npt.NDArray[np.uint16]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def insert(file: bytes, *chunks: bytes, before: bytes = b"IDAT") -> bytes:
    """The file with chunks before the first of a kind."""
    at = file.index(before) - 4
    return file[:at] + b"".join(chunks) + file[at:]


def png(
    samples: Samples,
    colour: int,
    depth: int,
    *,
    transparency: bytes = b"",
    palette: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """A PNG of samples [height, width, channels] of `depth` bits."""
    height, width, channels = samples.shape
    assert channels == CHANNELS[colour]
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    rows = b"".join(_rows(samples[top::down, left::right], depth) for left, top, right, down in passes)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))),
            chunk(b"PLTE", palette) if palette else b"",
            chunk(b"tRNS", transparency) if transparency else b"",
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        )
    )


def _rows(samples: Samples, depth: int) -> bytes:
    """The rows of a pass, each with another filter: none, left, up."""
    if not samples.size:
        return b""
    packed = [np.frombuffer(_packed(row.reshape(-1), depth), np.uint8) for row in samples]
    unit = max(1, samples.shape[2] * depth // 8)
    out, above = [], np.zeros_like(packed[0])
    for number, row in enumerate(packed):
        left = np.concatenate([np.zeros(unit, np.uint8), row])[: len(row)]
        base = (np.zeros_like(row), left, above)[number % 3]
        out.append(bytes([number % 3]) + (row - base).tobytes())
        above = row
    return b"".join(out)


def _packed(row: Samples, depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()
