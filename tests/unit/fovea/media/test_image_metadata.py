"""Metadata beside a sound image: skipped within limits, and orientation read from it."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest

from fovea.errors import ServiceError, TooLarge
from fovea.media.images import decode
from fovea.media.metadata import MAX_BYTES, MAX_PIECES
from tests.unit.fovea.media.metadata_files import (
    LIMITS,
    MEBIBYTE,
    NOISE,
    XMP,
    blocks,
    bomb,
    encoded,
    exif,
    in_gif,
    in_jpeg,
    segments,
    shown,
)
from tests.unit.fovea.media.peak import peak_bytes
from tests.unit.fovea.media.png_files import GREY, chunk, insert, png

BOMB = bomb()


@pytest.mark.parametrize(
    "added",
    [
        chunk(b"iCCP", b"name\0\0" + BOMB),
        chunk(b"zTXt", b"key\0\0" + BOMB),
        chunk(b"iTXt", b"key\0\1\0en\0key\0" + BOMB),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
        chunk(b"tEXt", b"key\0" + b"x" * (6 * MEBIBYTE)),
        chunk(b"tEXt", b"key\0x") * 3000,
        chunk(b"eXIf", bytes(6 * MEBIBYTE)),
        chunk(b"prVt", bytes(6 * MEBIBYTE)),
        chunk(b"iCCP", b"name\0\1nothing"),
        chunk(b"iCCP", b"name\0\0not deflate"),
        chunk(b"iCCP", b""),
        chunk(b"zTXt", b"key\0\7"),
        chunk(b"gAMA", b""),
        chunk(b"pHYs", b"\0"),
        chunk(b"cHRM", b"\0"),
        chunk(b"sRGB", b""),
        chunk(b"acTL", b""),
        chunk(b"acTL", bytes(8)),
        chunk(b"fcTL", bytes(26)),
        chunk(b"gAMA", struct.pack(">I", 45455))[:-1] + b"!",
        chunk(b"tEXt", b"key\0text")[:-4] + bytes(4),
    ],
    ids=lambda added: f"{added[4:8].decode()} {len(added)}",
)
def test_a_png_is_read_whatever_its_other_chunks_hold(added: bytes) -> None:
    plain = encoded("PNG")
    assert shown(insert(plain, added)) == shown(plain)
    assert shown(insert(plain, added, before=b"IEND")) == shown(plain)


@pytest.mark.parametrize(
    "added",
    [
        segments(0xE2, bytes(4 * MEBIBYTE), b"ICC_PROFILE\0\1\1"),
        segments(0xE2, b"MPF\0" + bytes(100)),
        segments(0xE1, XMP % 1, b"http://ns.adobe.com/xap/1.0/\0"),
        segments(0xE1, bytes(6 * MEBIBYTE), b"http://ns.adobe.com/xmp/extension/\0"),
        segments(0xE1, bytes(3 * MEBIBYTE), b"Exif\0\0"),
        segments(0xFE, bytes(6 * MEBIBYTE)),
        segments(0xED, bytes(6 * MEBIBYTE), b"Photoshop 3.0\0"),
        segments(0xED, b"8BIM\xff\xff", b"Photoshop 3.0\0"),
        segments(0xE0, b"\x13\0\0", b"JFXX\0"),
        segments(0xE5, b""),
    ],
    ids=lambda added: f"{added[1]:x} {len(added)}",
)
def test_a_jpeg_is_read_whatever_its_other_segments_hold(added: bytes) -> None:
    assert shown(in_jpeg(added)) == shown(encoded("JPEG"))


@pytest.mark.parametrize(
    "added",
    [
        b"!\xfe" + blocks(bytes(6 * MEBIBYTE)),
        b"!\xff" + blocks(b"XMP DataXMP")[:-1] + blocks(XMP % 3),
        b"!\xff" + blocks(b"NETSCAPE2.0")[:-1] + blocks(b"\1\0\0"),
        b"!\x01" + blocks(bytes(12) + b"text"),
    ],
)
def test_a_gif_is_read_whatever_its_other_blocks_hold(added: bytes) -> None:
    assert shown(in_gif(added)) == shown(encoded("GIF"))


def test_a_webp_is_read_whatever_its_other_chunks_hold() -> None:
    file = encoded("WEBP", icc_profile=bytes(4 * MEBIBYTE), exif=exif(1, size=MEBIBYTE), xmp=bytes(2 * MEBIBYTE))
    assert shown(file) == shown(encoded("WEBP"))


def piece(kind: str, form: str, size: int) -> bytes:
    """A file with so many bytes of a kind of metadata."""
    content = bytes(size)
    match form, kind:
        case "PNG", _:
            name = {"EXIF": b"eXIf", "ICC profile": b"iCCP", "text": b"tEXt", "XMP": b"iTXt", "other metadata": b"prVt"}
            start = b"XML:com.adobe.xmp\0\0\0\0\0" if kind == "XMP" else b""
            return insert(encoded("PNG"), chunk(name[kind], (start + content)[:size]))
        case "JPEG", _:
            marker, start = {
                "EXIF": (0xE1, b"Exif\0\0"),
                "ICC profile": (0xE2, b"ICC_PROFILE\0"),
                "text": (0xFE, b""),
                "XMP": (0xE1, b"http://ns.adobe.com/xmp/extension/\0"),
                "other metadata": (0xE7, b""),
            }[kind]
            return in_jpeg(segments(marker, content, start))
        case "WEBP", _:
            name = {"EXIF": "exif", "ICC profile": "icc_profile", "XMP": "xmp"}[kind]
            return encoded("WEBP", **{name: b"x" * size})
        case _:
            label = {"text": b"!\xfe", "other metadata": b"!\xff", "XMP": b"!\xff\x0bXMP DataXMP"}[kind]
            return in_gif(label + blocks(content))


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        *(("PNG", kind) for kind in ("EXIF", "ICC profile", "XMP", "text", "other metadata")),
        *(("JPEG", kind) for kind in ("EXIF", "ICC profile", "XMP", "text", "other metadata")),
        *(("WEBP", kind) for kind in ("EXIF", "ICC profile", "XMP")),
        *(("GIF", kind) for kind in ("XMP", "text", "other metadata")),
    ],
)
def test_too_much_of_a_kind_is_refused_and_named(form: str, kind: str) -> None:
    assert decode(piece(kind, form, MAX_BYTES * 9 // 10), **LIMITS).size == NOISE.size
    with pytest.raises(TooLarge, match=f"more than 8,388,608 bytes of {kind};") as caught:
        decode(piece(kind, form, MAX_BYTES + 1), **LIMITS)
    assert caught.value.param == "image"


@pytest.mark.parametrize(
    "file",
    [
        insert(encoded("PNG"), chunk(b"tEXt", b"") * MAX_PIECES),
        insert(encoded("PNG"), chunk(b"IDAT", b"") * MAX_PIECES),
        in_jpeg(segments(0xFE, b"") * MAX_PIECES),
        in_jpeg(segments(0xE1, b"0123456789", b"Exif\0\0") * MAX_PIECES),
        in_gif(b"!\xfe" + blocks(bytes(MAX_PIECES), size=1)),
    ],
    ids=["PNG", "PNG pixels", "JPEG", "JPEG EXIF", "GIF"],
)
def test_too_many_pieces_are_refused(file: bytes) -> None:
    """Each takes steps of the interpreter, and 16 MiB hold millions."""
    with pytest.raises(TooLarge, match="more than 65,536 pieces"):
        decode(file, **LIMITS)


def test_padding_before_a_segment_is_passed_over() -> None:
    for padding in (b"\xff", b"\xff\x00", b"\xff\xd0"):
        assert shown(in_jpeg(padding * (8 * MEBIBYTE // len(padding)))) == shown(encoded("JPEG"))


def test_nothing_is_inflated(tmp_path: Path) -> None:
    packed = bomb(512 * MEBIBYTE)
    (tmp_path / "bombs.png").write_bytes(
        insert(encoded("PNG"), chunk(b"iCCP", b"name\0\0" + packed), chunk(b"zTXt", b"key\0\0" + packed))
    )
    assert peak_bytes(tmp_path / "bombs.png") < 4 * len(packed) + 8 * MEBIBYTE


def test_exif_written_as_text_is_inflated_within_its_limit(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(insert(encoded("PNG"), chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)))
    assert peak_bytes(tmp_path / "bomb.png") < 100 * MEBIBYTE


def test_damage_anywhere_is_an_error_with_a_name() -> None:
    """Or is not noticed. Nothing else comes out, and neither takes long."""
    rng = np.random.default_rng(3)
    tagged = {"exif": exif(6), "icc_profile": bytes(300)}
    files = [encoded("PNG", **tagged), encoded("JPEG", **tagged), encoded("WEBP", **tagged), in_gif(b"!\xfe\1x\0")]
    files.append(png(np.zeros((3, 3, 1), np.uint16), GREY, 4, transparency=b"\0\0"))
    for file in files:
        for _ in range(300):
            damaged = bytearray(file)
            for at in rng.integers(6, len(file), rng.integers(1, 4)):
                damaged[at] = rng.integers(256)
            cut = bytes(damaged[: rng.integers(6, len(file) + 1)])
            for data in (bytes(damaged), cut):
                with contextlib.suppress(ServiceError):
                    decode(data, max_bytes=2**20, max_pixels=10**6)
