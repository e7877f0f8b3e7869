"""Progressive JPEG files with more scans than an encoder writes."""

from __future__ import annotations

import io

from PIL import Image

__all__ = ["progressive"]


def progressive(size: tuple[int, int], *, mode: str = "L", repeat_last_scan: int = 0) -> bytes:
    """A grey image of the given width and height whose last scan, with its Huffman table, is repeated some times."""
    file = io.BytesIO()
    Image.new(mode, size, 128 if mode == "L" else (90, 120, 150)).save(file, "JPEG", progressive=True, quality=50)
    data = file.getvalue()
    scans = data.rfind(b"\xff\xda")
    table = data.rfind(b"\xff\xc4", 0, scans)
    return data[:-2] + data[table:-2] * repeat_last_scan + data[-2:]
