"""Headers of image files against Pillow, and of files made to cost more than their header says."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.safety.costly_images import COSTLY_IMAGES, one_colour_gif, one_colour_webp
from fovea.errors import ServiceError, TooLarge, UnsupportedMedia
from fovea.media.image_headers import read_header
from fovea.media.images import decode, to_rgb
from tests.unit.fovea.media.peak import peak_bytes

LIMITS = {"max_bytes": 16 * 2**20, "max_pixels": 50_000_000}
MEBIBYTE = 2**20
EXIF = b"Exif\0\0MM\0*" + bytes(40_000)
ANIMATED = {"save_all": True, "append_images": [Image.new("RGB", (300, 300), "red")]}
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "JPEG": ("JPEG", "RGB", {}),
    "grey JPEG": ("JPEG", "L", {}),
    "CMYK JPEG": ("JPEG", "CMYK", {}),
    "progressive JPEG": ("JPEG", "RGB", {"progressive": True}),
    "JPEG with a comment": ("JPEG", "RGB", {"comment": b"x" * 40_000}),
    "PNG": ("PNG", "RGB", {}),
    "PNG of 1 bit": ("PNG", "1", {}),
    "PNG with palette": ("PNG", "P", {}),
    "PNG with alpha": ("PNG", "RGBA", {}),
    "animated PNG": ("PNG", "RGB", ANIMATED),
    "lossy WebP": ("WEBP", "RGB", {}),
    "lossy WebP with alpha": ("WEBP", "RGBA", {}),
    "lossless WebP": ("WEBP", "RGB", {"lossless": True}),
    "WebP with EXIF": ("WEBP", "RGB", {"exif": EXIF}),
    "animated WebP": ("WEBP", "RGB", ANIMATED),
    "GIF": ("GIF", "P", {"comment": b"x" * 1000}),
    "animated GIF": ("GIF", "RGB", ANIMATED),
    "BMP": ("BMP", "RGB", {}),
    "BMP of 8 bits": ("BMP", "P", {}),
    "BMP with alpha": ("BMP", "RGBA", {}),
}


def encoded(name: str, size: tuple[int, int]) -> bytes:
    form, mode, options = FILES[name]
    if "append_images" in options:
        options = options | {"append_images": [image.resize(size) for image in options["append_images"]]}
    buffer = io.BytesIO()
    Image.new("RGBA", size, (200, 100, 50, 7)).convert("RGB").convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (255, 257), (3000, 2)])
def test_size_and_format_are_those_that_pillow_reads(name: str, size: tuple[int, int]) -> None:
    file = encoded(name, size)
    header = read_header(file)
    assert header is not None
    with Image.open(io.BytesIO(file)) as image:
        assert (header.width, header.height) == image.size == size
        assert header.format.upper() == image.format
    assert header.num_pixels == size[0] * size[1]


def test_a_bmp_of_negative_height_starts_with_its_top_row() -> None:
    file = encoded("BMP", (5, 3))
    file = file[:22] + struct.pack("<i", -3) + file[26:]
    header = read_header(file)
    assert header is not None
    assert (header.width, header.height) == Image.open(io.BytesIO(file)).size == (5, 3)


def test_a_frame_outside_the_canvas_of_a_gif_is_counted() -> None:
    """Pillow enlarges the canvas, up to 65,535 x 65,535 pixels in 45 bytes."""
    file = one_colour_gif((8, 8), canvas=(1, 1), offset=(7_992, 7_992))
    header = read_header(file)
    assert header is not None
    assert (header.width, header.height) == Image.open(io.BytesIO(file)).size == (8000, 8000)
    with pytest.raises(TooLarge, match=r"8,000 x 8,000 pixels; at most 50,000,000"):
        decode(file, **LIMITS)


def test_a_file_whose_image_has_another_size_than_its_header_is_refused() -> None:
    """After a stray byte, Pillow takes the first frame for the content of an empty extension, and reads the second."""
    large = one_colour_gif((900, 900))
    start = large.index(b",", 19)
    small_frame = b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + bytes(35) + b"\0"
    file = large[:6] + struct.pack("<HH", 8, 8) + large[10:19] + b"\0!\x01\0" + small_frame + large[start:]
    header = read_header(file)
    assert header is not None
    assert (header.width, header.height) == (8, 8)
    assert Image.open(io.BytesIO(file)).size == (900, 900)
    with pytest.raises(UnsupportedMedia, match="a GIF image that is broken"):
        decode(file, **LIMITS)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_what_is_decoded_has_the_size_of_the_header_whatever_the_bytes(name: str, data: st.DataObject) -> None:
    file = bytearray(encoded(name, (20, 12)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(file) - 1, 120)))
        cut = data.draw(st.integers(0, 3))
        file[at : at + cut] = data.draw(st.binary(max_size=5))
    try:
        header = read_header(bytes(file))
        image = decode(bytes(file), max_bytes=10**6, max_pixels=10**6)
    except ServiceError:
        return
    assert header is not None
    assert sorted(image.size) == sorted((header.width, header.height))


@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM"]), rest=...
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_have_a_header_of_at_least_one_pixel_or_none(start: bytes, rest: bytes) -> None:
    header = read_header(start + rest)
    assert header is None or (header.width >= 1 and header.height >= 1)


def test_a_second_size_in_a_jpeg_is_refused_or_is_the_one_that_counts() -> None:
    small, large = encoded("JPEG", (8, 8)), encoded("JPEG", (3000, 3000))
    start = large.index(b"\xff\xc0")
    frame = large[start : start + 2 + int.from_bytes(large[start + 2 : start + 4], "big")]
    for file in (
        small[: small.index(b"\xff\xc0")] + frame + small[small.index(b"\xff\xc0") :],
        small[: small.index(b"\xff\xda")] + frame + small[small.index(b"\xff\xda") :],
    ):
        with pytest.raises((UnsupportedMedia, TooLarge)):
            decode(file, max_bytes=10**6, max_pixels=1000)


@pytest.mark.parametrize(
    "file",
    [
        b"\xff\xd8" + b"\xff\xe1\0\2" * (4 * MEBIBYTE - 1),
        b"GIF89a" + bytes(7) + b"!\xfe" + b"\1a" * (8 * MEBIBYTE - 10),
    ],
    ids=["JPEG", "GIF"],
)
def test_millions_of_segments_are_refused_after_65536(file: bytes) -> None:
    with pytest.raises(TooLarge, match="more than 65,536 pieces"):
        read_header(file)


@pytest.mark.parametrize(
    "file", [b"\xff\xd8" + b"\xff" * 1000, b"GIF89a" + bytes(1000), b"\xff\xd8\xff\xe1\xff\xff" * 99]
)
def test_files_that_never_come_to_their_size_have_no_header(file: bytes) -> None:
    assert read_header(file) is None


def test_a_canvas_that_is_too_large_is_never_allocated(tmp_path: Path) -> None:
    """The decoder of WebP allocates the canvas when it opens a file."""
    file = one_colour_webp((16_000, 16_000))
    assert len(file) == 28
    (tmp_path / "large.webp").write_bytes(file)
    with pytest.raises(TooLarge, match=r"16,000 x 16,000 pixels"):
        decode(file, **LIMITS)
    extended = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6 + bytes(8)
    with pytest.raises(TooLarge, match=r"16,777,216 x 16,777,216 pixels"):
        decode(extended, **LIMITS)


@pytest.mark.parametrize(
    "name",
    [
        "WebP lossless, one colour",
        "WebP lossless with alpha",
        "PNG with palette",
        "PNG of 16 bits",
        "PNG of 16 bits, grey",
        "PNG of 16 bits, transparent colour",
        "PNG turned by EXIF",
        "JPEG turned by EXIF",
        "JPEG CMYK",
        "JPEG progressive, 4:4:4 CMYK",
        "GIF of one colour",
        "BMP of runs",
    ],
)
def test_decoding_takes_no_more_memory_than_the_header_is_charged(name: str, tmp_path: Path) -> None:
    file = COSTLY_IMAGES[name][1]((2400, 2400))
    (tmp_path / "file").write_bytes(file)
    header = read_header(file)
    assert header is not None
    peak = peak_bytes(tmp_path / "file")
    assert peak < header.decoded_bytes + 3 * len(file)
    assert peak > header.decoded_bytes / 3  # and the charge is no fantasy


def test_an_opaque_layer_is_what_its_composition_on_white_would_be() -> None:
    values = np.arange(256, dtype=np.uint8)
    pixels = np.stack([values, values[::-1], np.roll(values, 7), np.full(256, 255, np.uint8)], axis=1)[None]
    layer = Image.fromarray(np.ascontiguousarray(pixels))
    composed = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert to_rgb(layer).tobytes() == composed.tobytes()


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"quality": 60}, ANIMATED], ids=["lossless", "lossy", "animated"]
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_first_frame_of_a_webp_is_the_one_that_pillow_loads(mode: str, options: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", **options)
    want = Image.open(io.BytesIO(buffer.getvalue()))
    assert decode(buffer.getvalue(), **LIMITS).tobytes() == to_rgb(want.convert(want.mode)).tobytes()
