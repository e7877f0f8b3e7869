"""Large pictures in bands, for methods whose cost grows with the square of the patches.

A picture of Qwen2.5-VL can have 16,384 visual tokens; a matrix of all pairs would take a gigabyte, and each choice a
pass over it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_PATCHES", "Band", "allocate_budget", "bands"]

MAX_PATCHES: Final = 2048


@dataclass(frozen=True, slots=True)
class Band:
    """Whole rows of a picture.

    Attributes:
        patches: Theirs, in raster order.
        grid: Rows and columns.
    """

    patches: slice
    grid: tuple[int, int]

    @property
    def size(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]


def bands(grid: tuple[int, int]) -> list[Band]:
    """As few bands of nearly equal height as keep to `MAX_PATCHES` each, a row at least: one for a usual picture.

    A single row that is longer is cut into runs.
    """
    rows, columns = grid
    if rows == 1:  # parts joined into one line of patches
        count = -(-columns // MAX_PATCHES)
        cuts = [columns * i // count for i in range(count + 1)]
        return [Band(slice(a, b), (1, b - a)) for a, b in itertools.pairwise(cuts)]
    count = -(-rows // max(1, MAX_PATCHES // columns))
    cuts = [rows * i // count for i in range(count + 1)]
    return [Band(slice(a * columns, b * columns), (b - a, columns)) for a, b in itertools.pairwise(cuts)]


def allocate_budget(masses: Sequence[float], sizes: Sequence[int], keep: int) -> list[int]:
    """`keep` tokens dealt out in proportion to `masses`, no band more than its size.

    Token by token to the band with the most mass for each that it has and would have, of equal ones to the first
    (D'Hondt), so the result is exact and does not depend on rounding.
    """
    if len(sizes) == 1:
        return [keep]
    dealt = [0] * len(sizes)
    for _ in range(keep):
        open_bands = [i for i, size in enumerate(sizes) if dealt[i] < size]
        dealt[max(open_bands, key=lambda i: (masses[i] / (dealt[i] + 1), -i))] += 1
    return dealt
