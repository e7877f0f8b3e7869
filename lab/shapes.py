"""Anti-aliased masks of the shapes, letters and textures that scenes are drawn from.

Masks are computed from formulas and a small bitmap font, so that a seed gives the same image with every version of
Pillow and without system fonts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

SUPERSAMPLE = 4

GLYPHS: dict[str, str] = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "X": "10001 10001 01010 00100 01010 10001 10001",
    "Z": "11111 00001 00010 00100 01000 10000 11111",
}


def _coordinates(size: int) -> tuple[FloatArray, FloatArray]:
    """Sample points `u` (right) and `v` (down) of a `size`-pixel square, both in [-1, 1]."""
    n = size * SUPERSAMPLE
    axis = ((np.arange(n, dtype=np.float32) + 0.5) / n) * 2 - 1
    return np.tile(axis, (n, 1)), np.tile(axis[:, None], (1, n))


def _polygon(u: FloatArray, v: FloatArray, corners: list[tuple[float, float]]) -> npt.NDArray[np.bool_]:
    """Even-odd fill of a polygon given by its corners."""
    inside = np.zeros(u.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 == y1:
            continue
        crosses = (v < y0) != (v < y1)
        inside ^= crosses & (u < (x1 - x0) * (v - y0) / (y1 - y0) + x0)
    return inside


def _star(u: FloatArray, v: FloatArray) -> npt.NDArray[np.bool_]:
    corners = []
    for point in range(10):
        radius = 1.0 if point % 2 == 0 else 0.42
        angle = np.pi * point / 5
        corners.append((float(radius * np.sin(angle)), float(0.06 - radius * np.cos(angle))))
    return _polygon(u, v, corners)


def _inside(shape: str, u: FloatArray, v: FloatArray) -> Any:
    radius = np.hypot(u, v)
    angle = np.arctan2(v, u)
    if shape == "circle":
        return radius < 0.95
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) < 0.86
    if shape == "triangle":
        return _polygon(u, v, [(0.0, -0.95), (0.98, 0.85), (-0.98, 0.85)])
    if shape == "star":
        return _star(u, v)
    if shape == "cross":
        return (np.minimum(np.abs(u), np.abs(v)) < 0.32) & (np.maximum(np.abs(u), np.abs(v)) < 0.96)
    if shape == "heart":
        x, y = u * 1.2, -v * 1.2 + 0.12
        return (x * x + y * y - 1) ** 3 - x * x * y**3 < 0
    if shape == "ring":
        return (radius < 0.97) & (radius > 0.55)
    if shape == "moon":
        return (radius < 0.97) & (np.hypot(u - 0.5, v + 0.1) > 0.72)
    if shape == "flower":
        return radius < 0.7 + 0.28 * np.cos(6 * angle)
    if shape == "gear":
        return (radius < 0.76 + 0.2 * np.sign(np.cos(8 * angle))) & (radius > 0.22)
    if shape == "house":
        return _polygon(
            u, v, [(0.0, -0.98), (0.98, -0.1), (0.75, -0.1), (0.75, 0.95), (-0.75, 0.95), (-0.75, -0.1), (-0.98, -0.1)]
        )
    if shape == "kite":
        return _polygon(u, v, [(0.0, -1.0), (0.72, -0.2), (0.0, 1.0), (-0.72, -0.2)])
    raise ValueError(f"unknown shape {shape!r}")


@cache
def shape_mask(shape: str, size: int) -> FloatArray:
    """Coverage of each pixel by the shape, `[size, size]` in [0, 1]."""
    inside = _inside(shape, *_coordinates(size)).astype(np.float32)
    coverage: FloatArray = inside.reshape(size, SUPERSAMPLE, size, SUPERSAMPLE).mean(axis=(1, 3))
    return coverage


@cache
def texture(name: str, size: int, phase: int) -> FloatArray:
    """Share of the second colour in each pixel of a two-tone texture, `[size, size]`, 0 or 1."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) + np.float32(phase)
    pattern: Any
    if name == "striped":
        pattern = ((x + y) % 8) < 4
    elif name == "checkered":
        pattern = ((x // 5) + (y // 5)) % 2 < 1
    elif name == "dotted":
        pattern = np.hypot(x % 8 - 3.5, y % 8 - 3.5) < 2.4
    else:
        raise ValueError(f"unknown texture {name!r}")
    return np.where(pattern, 1, 0).astype(np.float32)


@cache
def glyph_mask(letter: str, scale: int) -> FloatArray:
    """Mask of a 5 x 7 bitmap letter, enlarged `scale` times, `[7 * scale, 5 * scale]`, 0 or 1."""
    rows = [[float(bit) for bit in row] for row in GLYPHS[letter].split()]
    return np.array(rows, dtype=np.float32).repeat(scale, axis=0).repeat(scale, axis=1)
