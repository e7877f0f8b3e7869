"""Every colour type, depth, interlacing and kind of transparency of PNG, against the samples that were written."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fovea.media.images import decode
from tests.unit.fovea.media.peak import peak_bytes
from tests.unit.fovea.media.png_files import (
    CHANNELS,
    DEPTHS,
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    Samples,
    chunk,
    insert,
    png,
)

LIMITS = {"max_bytes": 16 * 2**20, "max_pixels": 50_000_000}
ALL = [(colour, depth) for colour, depths in DEPTHS.items() for depth in depths]
WITH_COLOUR_KEY = [(colour, depth) for colour, depth in ALL if colour in (GREY, RGB)]

Pixels = npt.NDArray[np.uint8]


def shown(file: bytes) -> Pixels:
    return np.asarray(decode(file, **LIMITS))


def noise(colour: int, depth: int, *, size: tuple[int, int] = (21, 13)) -> Samples:
    most = 2**depth
    samples = np.random.default_rng(depth).integers(0, most, (*size, CHANNELS[colour]), dtype=np.uint16)
    samples[0, :4] = np.array([0, most - 1, most // 2, 1])[:, None]  # with the ends and, at 16 bits, near misses
    return samples


def palette(depth: int) -> bytes:
    return np.random.default_rng(9).integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes()


def eight_bits(samples: Samples, depth: int) -> npt.NDArray[np.int64]:
    return samples.astype(np.int64) * 255 // (2**depth - 1)


def on_white(colour: npt.NDArray[np.int64], alpha: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Exact; a decoder may round."""
    return (colour * alpha + 255 * (255 - alpha)) / 255


def expected(samples: Samples, colour: int, depth: int, colours: bytes = b"") -> npt.NDArray[np.float64]:
    """Pixels [height, width, 3] of a file without tRNS."""
    if colour == PALETTE:
        return np.frombuffer(colours, np.uint8).reshape(-1, 3)[samples[..., 0]].astype(np.float64)
    values = eight_bits(samples, depth)
    if colour in (GREY_ALPHA, RGBA):
        values, alpha = values[..., :-1], values[..., -1:]
        return np.broadcast_to(on_white(values, alpha), (*values.shape[:2], 3))
    return np.broadcast_to(values, (*values.shape[:2], 3)).astype(np.float64)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), ALL)
def test_every_colour_type_and_depth(colour: int, depth: int, interlaced: bool) -> None:
    samples, colours = noise(colour, depth), palette(depth) if colour == PALETTE else b""
    pixels = shown(png(samples, colour, depth, palette=colours, interlaced=interlaced))
    want = expected(samples, colour, depth, colours)
    if colour in (GREY_ALPHA, RGBA):
        assert np.abs(pixels - want).max() <= 1
    else:
        assert (pixels == want).all()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), WITH_COLOUR_KEY)
def test_the_transparent_colour_is_white_and_no_other_is(colour: int, depth: int, interlaced: bool) -> None:
    samples = noise(colour, depth)
    key = samples[3, 3].copy()
    samples[5, 5:7] = key
    if depth == 16:  # equal in the upper byte, and after the reduction to 8 bits
        samples[6, 5] = key ^ 1
    file = png(samples, colour, depth, transparency=key.astype(">u2").tobytes(), interlaced=interlaced)
    want = expected(samples, colour, depth)
    is_clear = (samples == key).all(axis=-1)
    want[is_clear] = 255
    assert is_clear[5, 5]
    assert (shown(file) == want).all()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", DEPTHS[PALETTE])
def test_entries_of_a_palette_have_an_alpha_each(depth: int, interlaced: bool) -> None:
    samples, colours = noise(PALETTE, depth), palette(depth)
    for alphas in (bytes([0, 128][: 2**depth]), bytes([255, 0]), np.arange(2**depth, dtype=np.uint8).tobytes()):
        file = png(samples, PALETTE, depth, palette=colours, transparency=alphas, interlaced=interlaced)
        alpha = np.frombuffer(alphas.ljust(2**depth, b"\xff"), np.uint8).astype(np.int64)[samples]
        want = on_white(expected(samples, PALETTE, depth, colours).astype(np.int64), alpha)
        assert np.abs(shown(file) - want).max() <= 1


def test_all_samples_of_16_bits_are_reduced_alike() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    want = np.broadcast_to(every // 257, (256, 256, 3))
    opaque = np.full_like(every, 65535)
    assert (shown(png(every, GREY, 16)) == want).all()
    assert (shown(png(np.repeat(every, 3, axis=2), RGB, 16)) == want).all()
    assert (shown(png(np.concatenate([every, opaque], axis=2), GREY_ALPHA, 16)) == want).all()
    assert (shown(png(np.concatenate([every, every, every, opaque], axis=2), RGBA, 16)) == want).all()


@pytest.mark.parametrize("colour", [GREY, RGB, GREY_ALPHA, RGBA])
def test_samples_widened_from_8_bits_are_restored(colour: int) -> None:
    narrow = noise(colour, 8)
    assert (shown(png(narrow * 257, colour, 16)) == shown(png(narrow, colour, 8))).all()


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "RGB"), ("WEBP", "RGB"), ("BMP", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGBA")]
)
def test_a_file_of_16_bits_shows_what_other_formats_show_in_8(form: str, mode: str) -> None:
    colour = {"RGB": RGB, "RGBA": RGBA}[mode]
    narrow = noise(colour, 8)
    buffer = io.BytesIO()
    lossless = {"lossless": True, "exact": True} if form == "WEBP" else {}
    Image.fromarray(narrow.astype(np.uint8)).save(buffer, form, **lossless)
    assert (shown(png(narrow * 257, colour, 16)) == shown(buffer.getvalue())).all()


def test_spare_bits_of_a_transparent_colour_do_not_count() -> None:
    for depth, spare in itertools.product((1, 2, 4, 8), (0x100, 0xFF00)):
        samples = noise(GREY, depth)
        file = png(samples, GREY, depth, transparency=struct.pack(">H", int(samples[0, 0, 0]) | spare))
        assert (shown(file)[samples[..., 0] == samples[0, 0, 0]] == 255).all()


@pytest.mark.parametrize(
    ("colour", "transparency"),
    [
        (GREY, b""),
        (GREY, b"\0"),
        (GREY, bytes(6)),
        (RGB, bytes(2)),
        (RGB, bytes(5)),
        (GREY_ALPHA, bytes(2)),
        (RGBA, bytes(6)),
    ],
)
def test_transparency_of_another_form_counts_as_absent(colour: int, transparency: bytes) -> None:
    for depth in (8, 16):
        plain = png(noise(colour, depth), colour, depth)
        assert (shown(insert(plain, chunk(b"tRNS", transparency))) == shown(plain)).all()


def test_transparency_out_of_place_or_damaged_counts_as_absent() -> None:
    samples = noise(GREY, 8)
    plain, key = png(samples, GREY, 8), chunk(b"tRNS", struct.pack(">H", int(samples[0, 0, 0])))
    assert (shown(insert(plain, key)) != shown(plain)).any()
    assert (shown(insert(plain, key, before=b"IEND")) == shown(plain)).all()
    assert (shown(insert(plain, key[:-1] + bytes([key[-1] ^ 1]))) == shown(plain)).all()


@pytest.mark.parametrize("colour", [GREY, RGB, GREY_ALPHA, RGBA])
def test_decoding_16_bits_takes_few_bytes_a_pixel(colour: int, tmp_path: Path) -> None:
    side = 2000
    (tmp_path / "deep.png").write_bytes(png(np.zeros((side, side, CHANNELS[colour]), np.uint16), colour, 16))
    assert peak_bytes(tmp_path / "deep.png") < 11 * side**2


def test_one_pixel_of_each_kind() -> None:
    for (colour, depth), interlaced in itertools.product(ALL, (False, True)):
        samples = np.zeros((1, 1, CHANNELS[colour]), np.uint16)
        colours = bytes(3) if colour == PALETTE else b""
        want = 255 if colour in (GREY_ALPHA, RGBA) else 0
        assert (shown(png(samples, colour, depth, palette=colours, interlaced=interlaced)) == want).all()
