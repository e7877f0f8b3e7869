"""Variants of each accepted format that cameras, phones and browsers write, and formats that are refused by name."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fovea.errors import UnsupportedMedia
from fovea.media.file_formats import detect_format
from fovea.media.images import decode
from tests.unit.fovea.media.gif_files import BLUE, RED, gif
from tests.unit.fovea.media.png_files import chunk, insert

LIMITS = {"max_bytes": 16 * 2**20, "max_pixels": 50_000_000}
WHITE = (255, 255, 255)
RAMP = Image.fromarray(np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))).convert("RGB")
# RAMP, by jpegtran -arithmetic.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
    "FRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"
    "FBQUFBQUFBT/yQARCAAQABADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/ANwb4a8QJnv7K4Fl9/ZD/p/tMl1W"
    "4zD/2Q=="
)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def shown(file: bytes) -> npt.NDArray[np.int16]:
    return np.asarray(decode(file, **LIMITS)).astype(np.int16)


def refused(file: bytes, words: str) -> None:
    with pytest.raises(UnsupportedMedia, match=words) as caught:
        decode(file, **LIMITS)
    assert caught.value.param == "image"


# JPEG


def test_codings_of_jpeg_show_the_same() -> None:
    plain = encoded(RAMP, "JPEG", quality=90)
    for file in (
        encoded(RAMP, "JPEG", quality=90, progressive=True),
        encoded(RAMP, "JPEG", quality=90, restart_marker_blocks=1),
        encoded(RAMP, "JPEG", quality=90, optimize=True),
        ARITHMETIC,
        plain + bytes(1000) + b"trailing",
        plain[:2] + b"\xff" * 20 + plain[2:],
    ):
        assert (shown(file) == shown(plain)).all()


def test_jpeg_of_other_codings_is_refused_with_what_is_accepted() -> None:
    plain = encoded(RAMP, "JPEG")
    deep = plain.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")
    refused(deep, "12 bits per sample; accepted: JPEG of 8 bits, baseline or progressive")
    refused(plain.replace(b"\xff\xc0\x00\x11", b"\xff\xc3\x00\x11"), "lossless or hierarchical")
    refused(plain[:-8], "broken or incomplete")


def test_of_several_images_in_a_jpeg_the_first_is_taken() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(RAMP, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], exif=exif)
    assert Image.open(io.BytesIO(file)).format == "MPO"
    turned = np.asarray(RAMP.transpose(Image.Transpose.ROTATE_270))
    assert np.abs(shown(file) - turned).max() < 12


def test_cmyk_as_adobe_writes_it() -> None:
    inks = np.zeros((16, 64, 4), np.uint8)
    for at, ink in enumerate([(0, 0, 0, 0), (0, 255, 255, 0), (255, 255, 0, 0), (0, 0, 0, 255)]):
        inks[:, 16 * at : 16 * at + 16] = ink
    file = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in file
    assert np.abs(shown(file)[8, 8::16] - [WHITE, RED, BLUE, (0, 0, 0)]).max() <= 2


def test_ycck_is_read_as_its_marker_says() -> None:
    """The stored components are 200, 128, 128 and 255: Adobe's Y is of the inks, 200 of each, and K is inverted."""
    file = bytearray(encoded(Image.new("CMYK", (16, 16), (255 - 200, 127, 127, 0)), "JPEG", quality=100))
    file[file.index(b"Adobe") + 11] = 2
    assert np.abs(shown(bytes(file)) - 55).max() <= 2


# GIF


@pytest.mark.parametrize("clear", [None, 1, 5])
@pytest.mark.parametrize("background", [0, 1, 2])
def test_around_a_first_frame_that_is_smaller_than_the_canvas_all_is_white(clear: int | None, background: int) -> None:
    pixels = shown(gif((20, 12), (3, 2, 8, 6), 0, clear=clear, background=background))
    want = np.full((12, 20, 3), 255)
    want[2:8, 3:11] = RED
    assert (pixels == want).all()


def test_a_gif_without_a_pixel_that_shows_is_white() -> None:
    assert (shown(gif((9, 7), (0, 0, 9, 7), 1, clear=1)) == 255).all()
    assert (shown(gif((9, 7), (0, 0, 9, 7), 1, clear=0)) == BLUE).all()


# BMP


def bmp(
    rows: bytes,
    size: tuple[int, int],
    bits: int,
    *,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
) -> bytes:
    """A BMP with a header of version 4 where there are masks, else of version 3."""
    header = struct.pack("<iiHHIIiiII", *size, 1, bits, compression, len(rows), 0, 0, len(palette) // 4, 0)
    if masks:
        header += struct.pack("<4I", *masks) + b"sRGB" + bytes(48)
    start = 14 + 4 + len(header) + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
    return head + struct.pack("<I", 4 + len(header)) + header + palette + rows


BGRA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def test_alpha_of_a_bmp_lies_on_white() -> None:
    rows = bytes((0, 0, 255, 255, 255, 0, 0, 0))  # red, then blue that is transparent
    assert shown(bmp(rows, (2, 1), 32, compression=3, masks=BGRA)).tolist() == [[[*RED], [*WHITE]]]


def test_alpha_of_a_bmp_that_is_nowhere_set_is_none() -> None:
    """Programs that know no alpha leave it 0, and browsers show the image."""
    rows = bytes((0, 0, 255, 0, 255, 0, 0, 0))
    assert shown(bmp(rows, (2, 1), 32, compression=3, masks=BGRA)).tolist() == [[[*RED], [*BLUE]]]
    assert shown(bmp(rows, (2, 1), 32)).tolist() == [[[*RED], [*BLUE]]]


@pytest.mark.parametrize(
    "file",
    [
        bmp(bytes((255, 0, 0, 0, 0, 0, 255, 0)), (1, 2), 24),
        bmp(bytes((0, 0, 255, 0, 255, 0, 0, 0)), (1, -2), 24),
        bmp(struct.pack("<4H", 0x001F, 0, 0xF800, 0), (1, 2), 16, compression=3, masks=(0xF800, 0x7E0, 0x1F, 0)),
        bmp(struct.pack("<4H", 0x001F, 0, 0x7C00, 0), (1, 2), 16),
        bmp(bytes((1, 0, 0, 0, 0, 0, 0, 0)), (1, 2), 8, palette=bytes((0, 0, 255, 0, 255, 0, 0, 0))),
        bmp(bytes((0x10, 0, 0, 0, 0, 0, 0, 0)), (1, 2), 4, palette=bytes((0, 0, 255, 0, 255, 0, 0, 0))),
        bmp(bytes((0x80, 0, 0, 0, 0, 0, 0, 0)), (1, 2), 1, palette=bytes((0, 0, 255, 0, 255, 0, 0, 0))),
        bmp(bytes((1, 1, 0, 0, 1, 0, 0, 1)), (1, 2), 8, compression=1, palette=bytes((0, 0, 255, 0, 255, 0, 0, 0))),
        bmp(bytes((1, 0x10, 0, 0, 1, 0, 0, 1)), (1, 2), 4, compression=2, palette=bytes((0, 0, 255, 0, 255, 0, 0, 0))),
    ],
    ids=["24", "top down", "565", "555", "8", "4", "1", "RLE8", "RLE4"],
)
def test_kinds_of_bmp_show_the_same(file: bytes) -> None:
    assert shown(file).tolist() == [[[*RED]], [[*BLUE]]]


# Animations


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("PNG", {"default_image": True}), ("WEBP", {"lossless": True}), ("GIF", {})]
)
def test_of_animations_the_first_image_is_taken(form: str, options: dict[str, bool]) -> None:
    further = [Image.new("RGB", (8, 8), "blue"), Image.new("RGB", (8, 8), "lime")]
    file = encoded(Image.new("RGB", (8, 8), "red"), form, save_all=True, append_images=further, **options)
    assert (shown(file) == RED).all()


def test_a_first_frame_of_webp_that_shows_through_lies_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 4, 8))
    further = [Image.new("RGBA", (8, 8), "lime")]
    file = encoded(clear, "WEBP", save_all=True, append_images=further, lossless=True, background=(9, 9, 9, 255))
    assert (shown(file)[:, :4] == BLUE).all()
    assert (shown(file)[:, 4:] == WHITE).all()


# What is refused


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (encoded(RAMP, "AVIF"), "an AVIF image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(40), "an AVIF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "a HEIC image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40), "a HEIC image"),
        (encoded(RAMP, "TIFF"), "a TIFF image"),
        (encoded(RAMP, "JPEG2000"), "a JPEG 2000 image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "a JPEG XL image"),
        (b"\xff\x0a" + bytes(40), "a JPEG XL image"),
        (encoded(RAMP, "ICO"), "an icon"),
        (encoded(RAMP, "PDF"), "a PDF document"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"<svg/>", "an SVG drawing"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "an MP4 video"),
        (b"\0\0\0\x14ftypqt  " + bytes(40), "a MOV video"),
        (b"\x1aE\xdf\xa3" + bytes(40), "a WebM or MKV video"),
        (b"8BPS\0\1" + bytes(40), "a Photoshop document"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
    ],
    # Not the bytes: a PDF holds the time, and every worker must see the same names.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_formats_are_refused_by_name(file: bytes, name: str) -> None:
    assert detect_format(file) == name
    refused(file, f"the file is {name}; accepted: JPEG, PNG, WebP, GIF, BMP")


def test_an_accepted_format_that_cannot_be_read_is_named() -> None:
    refused(b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG image that is broken or of a kind that cannot be read")
    jpeg_in_bmp = bmp(encoded(RAMP, "JPEG"), (16, 16), 0, compression=4)
    refused(jpeg_in_bmp, "a BMP image that is broken or of a kind that cannot be read")


def test_accepted_formats_are_distinguished() -> None:
    names = {
        "JPEG": "a JPEG image",
        "PNG": "a PNG image",
        "WEBP": "a WebP image",
        "GIF": "a GIF image",
        "BMP": "a BMP image",
    }
    for form, name in names.items():
        assert detect_format(encoded(RAMP, form)) == name
    assert detect_format(b"hello, I am a text") is None
    assert detect_format(b"") is None


def test_a_palette_without_colours_is_an_error_with_a_name() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0))
    file = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(6))) + chunk(b"IEND", b"")
    assert decode(file, **LIMITS).size == (2, 2)
    assert decode(insert(file, chunk(b"PLTE", b"\xff\0\0")), **LIMITS).getpixel((0, 0)) == RED
