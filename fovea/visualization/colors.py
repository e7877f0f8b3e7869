"""Colours of tokens and of maps."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

__all__ = ["Color", "heat_colors", "neighbouring_patches", "token_colors"]

Color: TypeAlias = tuple[int, int, int]
"""Red, green and blue in 0..255."""


def _palette_color(step: int, strength: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb((0.12 + 5 * step / 12) % 1, strength, value)
    return round(255 * red), round(255 * green), round(255 * blue)


# Twelve hues, dark and bright in turn, then the same ones paler, then the other way round.
_PALETTE: Final = [
    _palette_color(step, strength, 0.7 if (step + turn) % 2 else 1.0)
    for turn, strength in enumerate((0.95, 0.5, 0.75))
    for step in range(12)
]
# Sums of the differences of red, green and blue between the colours of the palette.
_DISTANCES: Final = [
    [sum(abs(a - b) for a, b in zip(one, other, strict=True)) for other in _PALETTE] for one in _PALETTE
]
_UNTAKEN: Final = [3 * 255] * len(_PALETTE)  # the largest distance
_FAR: Final = 220
# Colours from low to high. Luminance rises throughout, so that a grey print keeps the order.
_HEAT: Final = ((8, 8, 40), (50, 20, 120), (140, 30, 130), (220, 60, 80), (250, 140, 40), (255, 240, 120))
_HEAT_STEPS: Final = 1023  # more than the colours between them


def neighbouring_patches(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """Pairs of patches that share an edge; the first is left of the second or above it.

    Args:
        grid: rows and columns of patches.
    """
    rows, columns = grid
    patches = range(rows * columns)
    side_by_side = [(patch, patch + 1) for patch in patches if (patch + 1) % columns]
    return side_by_side + [(patch, patch + columns) for patch in patches[: (rows - 1) * columns]]


def token_colors(token_of_patch: Sequence[int], grid: tuple[int, int], num_tokens: int) -> list[Color]:
    """Colours of the kept tokens; tokens with adjacent patches differ much.

    Args:
        token_of_patch: token of each patch in raster order, -1 for none.
        grid: rows and columns of patches.
        num_tokens: number of kept tokens.
    """
    neighbours: list[set[int]] = [set() for _ in range(num_tokens)]
    for patch, next_patch in neighbouring_patches(grid):
        one, other = token_of_patch[patch], token_of_patch[next_patch]
        if one != other and min(one, other) >= 0:
            neighbours[one].add(other)
            neighbours[other].add(one)
    chosen: list[int] = []
    uses = [0] * len(_PALETTE)
    for token, around in enumerate(neighbours):
        color = _next_color([chosen[other] for other in around if other < token], uses)
        chosen.append(color)
        uses[color] += 1
    return [_PALETTE[color] for color in chosen]


def _next_color(taken: Sequence[int], uses: Sequence[int]) -> int:
    """The rarest of the colours that are far from those that are taken; the farthest where none is."""
    distances = list(map(min, _UNTAKEN, _UNTAKEN, *(_DISTANCES[color] for color in taken)))
    least = min(_FAR, max(distances))
    far = [color for color, distance in enumerate(distances) if distance >= least]
    return min(far, key=lambda color: (uses[color], -distances[color]))


def heat_colors(levels: Iterable[float]) -> bytes:
    """Red, green and blue of each of some levels in 0..1."""
    table = _heat_table()
    return b"".join([table[round(_HEAT_STEPS * level)] for level in levels])


@functools.cache
def _heat_table() -> list[bytes]:
    return [_heat_color(step / _HEAT_STEPS) for step in range(_HEAT_STEPS + 1)]


def _heat_color(level: float) -> bytes:
    position = level * (len(_HEAT) - 1)
    index = min(int(position), len(_HEAT) - 2)
    share = position - index
    return bytes(round(low + share * (high - low)) for low, high in zip(*_HEAT[index : index + 2], strict=True))
