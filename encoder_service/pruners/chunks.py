"""Chunks of a large patch grid, for methods whose cost grows with the square of the number of patches.

An image of Qwen2.5-VL can have 16,384 visual tokens. A matrix of all pairs would take a gigabyte, and each kept token
would take one pass over it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_PATCHES", "GridChunk", "allocate_budget", "chunk_grid"]

MAX_PATCHES: Final = 2048


@dataclass(frozen=True, slots=True)
class GridChunk:
    """Consecutive rows of a patch grid.

    Attributes:
        patches: raster indices of its patches.
        grid: rows and columns of the chunk.
    """

    patches: slice
    grid: tuple[int, int]

    @property
    def size(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]


def chunk_grid(grid: tuple[int, int]) -> list[GridChunk]:
    """The fewest chunks of at most `MAX_PATCHES` patches, of nearly equal height.

    A row that is longer is a chunk of its own. A grid of one row is cut inside the row.
    """
    rows, columns = grid
    if rows == 1:  # tiles concatenated into one row of patches
        count = -(-columns // MAX_PATCHES)
        cuts = [columns * i // count for i in range(count + 1)]
        return [GridChunk(slice(a, b), (1, b - a)) for a, b in itertools.pairwise(cuts)]
    count = -(-rows // max(1, MAX_PATCHES // columns))
    cuts = [rows * i // count for i in range(count + 1)]
    return [GridChunk(slice(a * columns, b * columns), (b - a, columns)) for a, b in itertools.pairwise(cuts)]


def allocate_budget(masses: Sequence[float], sizes: Sequence[int], keep: int) -> list[int]:
    """Budget of each chunk in proportion to its mass, by the D'Hondt method.

    Each token goes to the chunk with the largest mass / (tokens + 1) among those with room, and to the first of equal
    ones. The sum is therefore exact and does not depend on rounding.

    Args:
        masses: importance of each chunk, not negative.
        sizes: number of patches of each chunk, the upper bound of its budget.
        keep: number of tokens of all chunks together.
    """
    if len(sizes) == 1:
        return [keep]
    budgets = [0] * len(sizes)
    for _ in range(keep):
        with_room = [i for i, size in enumerate(sizes) if budgets[i] < size]
        budgets[max(with_room, key=lambda i: (masses[i] / (budgets[i] + 1), -i))] += 1
    return budgets
