"""Image files, sound and hostile."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fovea.errors import InvalidRequest, TooLarge, UnsupportedMedia
from fovea.media.images import decode
from tests.unit.fovea.media.peak import peak_bytes

LIMITS = {"max_bytes": 16 * 2**20, "max_pixels": 50_000_000}


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes) -> bytes:
    """A grey PNG of 1 bit a pixel, chunk by chunk."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP"])
def test_lossless_formats_come_back_pixel_for_pixel(form: str, noise: Image.Image) -> None:
    image = decode(encoded(noise, form, **({"lossless": True} if form == "WEBP" else {})), **LIMITS)
    assert image.mode == "RGB"
    assert image.tobytes() == noise.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "GIF"])
def test_other_formats_equal_what_pillow_reads(form: str, noise: Image.Image) -> None:
    data = encoded(noise, form)
    assert decode(data, **LIMITS).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_exif_orientation_is_applied(noise: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    assert decode(encoded(noise, "PNG", exif=exif), **LIMITS).tobytes() == noise.rotate(270, expand=True).tobytes()


def test_of_an_animation_the_first_frame_is_taken() -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(red, "GIF", save_all=True, append_images=[blue])
    assert decode(data, **LIMITS).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize(("mode", "form"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP")])
def test_transparent_parts_lie_on_white(mode: str, form: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    shown = decode(encoded(image.convert(mode), form), **LIMITS)
    assert shown.getpixel((1, 1)) == (0, 0, 0)
    assert shown.getpixel((7, 7)) == (255, 255, 255)


def test_16_bit_grey_keeps_its_brightness() -> None:
    grey = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert decode(encoded(grey, "PNG"), **LIMITS).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA"])
def test_decoding_takes_few_bytes_a_pixel(mode: str, tmp_path: Path) -> None:
    side = 4000
    Image.new(mode, (side, side)).save(tmp_path / "large.png", compress_level=1)
    assert peak_bytes(tmp_path / "large.png") < 10 * side**2


def test_a_tall_transparent_image_has_no_seams() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 7, 4), dtype=np.uint8)
    layer = Image.fromarray(pixels)
    want = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert decode(encoded(layer, "PNG"), **LIMITS).tobytes() == want.tobytes()


def test_a_tall_image_of_16_bit_grey_has_no_seams() -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (200, 7), dtype=np.uint16)
    shown = np.asarray(decode(encoded(Image.fromarray(grey), "PNG"), **LIMITS))
    assert (shown == (grey // 257)[..., None]).all()


def test_cmyk_is_read() -> None:
    assert decode(encoded(Image.new("CMYK", (8, 8)), "JPEG"), **LIMITS).mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1)])
def test_tiny_and_thin_images_are_decoded(size: tuple[int, int]) -> None:
    assert decode(encoded(Image.new("RGB", size), "PNG"), **LIMITS).size == size


def test_a_strip_is_refused_with_its_size() -> None:
    with pytest.raises(InvalidRequest, match=r"101 x 1; its longer side may be at most 100 times the shorter"):
        decode(encoded(Image.new("RGB", (101, 1)), "PNG"), **LIMITS)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    whole = png(20_000, 20_000, zlib.compress(bytes(2501 * 20_000)))
    assert len(whole) < 100_000
    for data in (whole, whole[:60]):  # the header alone is enough to tell
        with pytest.raises(TooLarge, match=r"20,000 x 20,000 pixels; at most 50,000,000"):
            decode(data, **LIMITS)


def test_pixels_up_to_the_limit_are_accepted() -> None:
    data = encoded(Image.new("RGB", (20, 10)), "PNG")
    assert decode(data, max_bytes=10_000, max_pixels=200).size == (20, 10)
    with pytest.raises(TooLarge):
        decode(data, max_bytes=10_000, max_pixels=199)


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(TooLarge, match=r"has 101 bytes; at most 100 are accepted"):
        decode(bytes(101), max_bytes=100, max_pixels=1)


@pytest.mark.parametrize(
    "data", [b"", b"hello, I am a text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"<svg/>", b"%PDF-1.7", b"GIF89a"]
)
def test_bytes_that_are_no_image_are_refused_naming_the_formats(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="JPEG, PNG, WebP, GIF, BMP") as caught:
        decode(data, **LIMITS)
    assert caught.value.param == "image"


def test_a_format_that_only_pillow_accepts_is_refused(noise: Image.Image) -> None:
    with pytest.raises(UnsupportedMedia):
        decode(encoded(noise, "TIFF"), **LIMITS)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_truncated_files_are_refused(form: str, noise: Image.Image) -> None:
    data = encoded(noise, form)
    with pytest.raises(UnsupportedMedia):
        decode(data[: len(data) // 2], **LIMITS)
