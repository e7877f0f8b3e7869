"""Image files with metadata of any size, as each format stores them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from fovea.media.images import decode

__all__ = [
    "LIMITS",
    "MEBIBYTE",
    "NOISE",
    "XMP",
    "blocks",
    "bomb",
    "encoded",
    "exif",
    "in_gif",
    "in_jpeg",
    "segments",
    "shown",
]

LIMITS = {"max_bytes": 32 * 2**20, "max_pixels": 50_000_000}
MEBIBYTE = 2**20
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def encoded(form: str, image: Image.Image = NOISE, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **({"lossless": True} if form == "WEBP" else {}), **options)
    return buffer.getvalue()


def shown(file: bytes) -> bytes:
    image = decode(file, **LIMITS)
    return repr(image.size).encode() + image.tobytes()


def exif(orientation: int, *, size: int = 0, order: str = "<") -> bytes:
    """A TIFF header, a maker's name, the orientation, and zeros up to `size` bytes."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entries = (
        struct.pack(f"{order}HHI4s", 0x010F, 2, 4, b"ABC\0"),
        struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0),
    )
    return (head + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + bytes(4)).ljust(size, b"\0")


def segments(marker: int, content: bytes, start: bytes = b"") -> bytes:
    """As many JPEG segments as the content needs."""
    step = 65_000
    parts = [content[at : at + step] for at in range(0, max(1, len(content)), step)]
    return b"".join(struct.pack(">BBH", 0xFF, marker, 2 + len(start) + len(part)) + start + part for part in parts)


def in_jpeg(*added: bytes, file: bytes | None = None) -> bytes:
    file = file or encoded("JPEG")
    return file[:2] + b"".join(added) + file[2:]


def in_gif(*added: bytes) -> bytes:
    file = encoded("GIF")
    start = 13 + (3 << ((file[10] & 7) + 1))
    return file[:start] + b"".join(added) + file[start:]


def blocks(content: bytes, *, size: int = 255) -> bytes:
    parts = (content[at : at + size] for at in range(0, len(content), size))
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def bomb(size: int = 64 * MEBIBYTE) -> bytes:
    """Zeros that take a thousandth of their size."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(MEBIBYTE)) for _ in range(size // MEBIBYTE)]) + packer.flush()
