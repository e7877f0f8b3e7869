"""Orientation of images, by EXIF and by XMP, in small, large and broken metadata."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image, ImageOps

from fovea.media.images import decode
from tests.unit.fovea.media.metadata_files import (
    LIMITS,
    MEBIBYTE,
    NOISE,
    XMP,
    bomb,
    encoded,
    exif,
    in_jpeg,
    segments,
    shown,
)
from tests.unit.fovea.media.png_files import chunk, insert

BOMB = bomb()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_all_eight_orientations(form: str, orientation: int) -> None:
    image = NOISE.resize((120, 80))
    tagged = Image.Exif()
    tagged[0x0112] = orientation
    plain = Image.open(io.BytesIO(encoded(form, image)))
    plain.getexif()[0x0112] = orientation
    want = ImageOps.exif_transpose(plain)
    for exif_block in (tagged.tobytes(), b"Exif\0\0" + exif(orientation), b"Exif\0\0" + exif(orientation, order=">")):
        got = decode(encoded(form, image, exif=exif_block), **LIMITS)
        assert got.size == want.size
        assert got.tobytes() == want.convert("RGB").tobytes()


def turned(form: str) -> bytes:
    """What is shown of the image turned by a quarter clockwise."""
    image = decode(encoded(form), **LIMITS).transpose(Image.Transpose.ROTATE_270)
    return repr(image.size).encode() + image.tobytes()


def test_orientation_is_found_in_and_among_large_metadata() -> None:
    large = exif(6, size=6 * MEBIBYTE)
    profile = chunk(b"iCCP", b"name\0\0" + BOMB)
    assert shown(insert(encoded("PNG"), profile, chunk(b"eXIf", large))) == turned("PNG")
    assert shown(insert(encoded("PNG"), chunk(b"eXIf", large), before=b"IEND")) == turned("PNG")
    assert shown(encoded("WEBP", exif=large, icc_profile=bytes(4 * MEBIBYTE))) == turned("WEBP")
    parts = segments(0xE1, large, b"Exif\0\0")
    assert shown(in_jpeg(segments(0xE2, bytes(4 * MEBIBYTE), b"ICC_PROFILE\0\1\1"), parts)) == turned("JPEG")


def test_orientation_in_other_places() -> None:
    xmp = XMP % 6
    assert shown(in_jpeg(segments(0xE1, xmp, b"http://ns.adobe.com/xap/1.0/\0"))) == turned("JPEG")
    assert shown(insert(encoded("PNG"), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))) == turned("PNG")
    assert shown(encoded("WEBP", xmp=xmp)) == turned("WEBP")
    digits = b"\nexif\n%8d\n" % len(exif(6)) + (b"Exif\0\0" + exif(6)).hex().encode()
    for kind, text in ((b"tEXt", digits), (b"zTXt", b"\0" + zlib.compress(digits))):
        assert shown(insert(encoded("PNG"), chunk(kind, b"Raw profile type exif\0" + text))) == turned("PNG")


def test_exif_comes_before_xmp() -> None:
    assert shown(encoded("WEBP", exif=exif(6), xmp=XMP % 3)) == turned("WEBP")
    assert shown(encoded("WEBP", exif=exif(1), xmp=XMP % 3)) == shown(encoded("WEBP"))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0" + struct.pack("<I", 2**32 - 1),
        b"II*\0" + struct.pack("<IH", 8, 65_535),
        b"nonsense and more of it",
        exif(0),
        exif(9),
        exif(65_535),
        # 5,000 values of 64 kB each, all of them the same 64 kB of the file
        b"II*\0" + struct.pack("<IH", 8, 5000) + b"".join(struct.pack("<HHII", i, 7, 60_000, 8) for i in range(5000)),
    ],
)
def test_exif_that_cannot_be_read_leaves_the_image_as_it_is(block: bytes) -> None:
    assert shown(insert(encoded("PNG"), chunk(b"eXIf", block))) == shown(encoded("PNG"))
    assert shown(in_jpeg(segments(0xE1, block, b"Exif\0\0"))) == shown(encoded("JPEG"))


def test_damaged_exif_of_a_png_counts_as_absent() -> None:
    damaged = chunk(b"eXIf", exif(6))[:-1] + b"!"
    assert shown(insert(encoded("PNG"), damaged)) == shown(encoded("PNG"))
