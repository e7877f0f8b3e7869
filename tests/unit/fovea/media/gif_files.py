"""GIF files written byte by byte, with a frame anywhere on the canvas."""

from __future__ import annotations

import struct

__all__ = ["BLUE", "RED", "gif"]

RED, BLUE = (255, 0, 0), (0, 0, 255)


def gif(
    canvas: tuple[int, int],
    frame: tuple[int, int, int, int],
    colour: int,
    *,
    clear: int | None = None,
    background: int = 0,
) -> bytes:
    """A GIF of one frame (left, top, width, height) of one colour out of red, blue, and black."""
    palette = bytes((*RED, *BLUE)).ljust(3 * 128, b"\0")
    left, top, width, height = frame
    pixels = [colour] * (width * height)
    codes = b"".join(bytes([128, *pixels[at : at + 100]]) for at in range(0, len(pixels), 100)) + bytes([129])
    blocks = b"".join(bytes([len(codes[i : i + 255])]) + codes[i : i + 255] for i in range(0, len(codes), 255))
    return b"".join(
        (
            b"GIF89a" + struct.pack("<HHBBB", *canvas, 0xF6, background, 0) + palette,
            b"" if clear is None else b"!\xf9\x04" + struct.pack("<BHB", 1, 0, clear) + b"\0",
            b"," + struct.pack("<HHHHB", left, top, width, height, 0),
            b"\x07" + blocks + b"\0;",
        )
    )
