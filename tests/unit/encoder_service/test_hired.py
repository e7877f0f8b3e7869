"""HiRED on images in tiles, and the geometry of tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners.hired import allocate_by_early_attention, tile_by_position, tile_by_raster_index
from encoder_service.pruners.tile_mosaic import mosaic

GRID = (6, 6)
N = 36


def attend(*patches: tuple[int, int]) -> torch.Tensor:
    """Attention to some patches of the base tile, as (row, column)."""
    attention = torch.zeros(N)
    for row, column in patches:
        attention[row * GRID[1] + column] = 1.0
    return attention


# Nine patches in the upper right corner of the image.
CORNER = attend(*((row, column) for row in range(3) for column in range(3, 6)))


def allocate_budget(early: torch.Tensor, keep: int, tile_grid: tuple[int, int], **how: Any) -> list[int]:
    """Budgets of tiles without padding."""
    num_tiles = tile_grid[0] * tile_grid[1]
    tile_at = mosaic(GRID, tile_grid, (GRID[0] * tile_grid[0], GRID[1] * tile_grid[1])) // N
    tile_of_patch = tile_by_raster_index(N, num_tiles) if how.get("fidelity") else tile_by_position(GRID, tile_at)
    return allocate_by_early_attention(early, keep, sizes=[N] * (1 + num_tiles), tile_of_patch=tile_of_patch, **how)


def test_the_tile_that_shows_the_most_attended_patches_gets_the_budget() -> None:
    assert allocate_budget(CORNER, 24, (2, 2), alpha=0.75) == [18, 0, 6, 0, 0]
    # Strips of nine patches, a row and a half each. The second has six of the nine patches, and 1 is lost to rounding.
    assert allocate_budget(CORNER, 20, (2, 2), alpha=0.75, fidelity=True) == [15, 1, 3, 0, 0]


@pytest.mark.parametrize(("tile_grid", "budgets"), [((1, 2), [0, 9]), ((2, 1), [9, 0]), ((3, 1), [6, 3, 0])])
def test_grids_that_are_not_square_are_read_by_rows_and_columns(tile_grid: tuple[int, int], budgets: list[int]) -> None:
    assert allocate_budget(CORNER, 36, tile_grid, alpha=0.75) == [27, *budgets]


def test_padding_moves_the_borders_of_what_a_tile_shows() -> None:
    # Three tiles side by side. The middle 10 of their 18 columns show the image: 2, 6 and 2 of them.
    tile_at = mosaic(GRID, (1, 3), (6, 10)) // N
    assert tile_by_position(GRID, tile_at).view(GRID)[0].tolist() == [0, 1, 1, 1, 1, 2]


def test_a_base_tile_that_takes_everything_leaves_nothing() -> None:
    assert allocate_budget(CORNER, 30, (2, 2), alpha=1.0) == [30, 0, 0, 0, 0]


def test_the_excess_of_a_full_tile_goes_to_the_others() -> None:
    tile_of_patch = tile_by_position(GRID, mosaic(GRID, (2, 2), (12, 12)) // N)
    share = {"alpha": 0.75, "sizes": [N, 4, 4, 4, 4], "tile_of_patch": tile_of_patch}
    assert allocate_by_early_attention(CORNER, 40, **share) == [30, 2, 4, 2, 2]
    assert allocate_by_early_attention(CORNER, 40, **share, fidelity=True) == [30, 0, 4, 0, 0]


@given(
    seed=st.integers(0, 1000),
    rate=st.floats(0.01, 1),
    alpha=st.floats(0, 1),
    tile_grid=st.sampled_from([(1, 2), (2, 1), (2, 2), (1, 3), (3, 1)]),
)
@settings(max_examples=80, deadline=None)
def test_the_whole_budget_is_allocated_and_no_tile_gets_more_than_its_size(
    seed: int, rate: float, alpha: float, tile_grid: tuple[int, int]
) -> None:
    early = torch.rand(N, generator=torch.Generator().manual_seed(seed))
    keep = int((1 + tile_grid[0] * tile_grid[1]) * N * rate)
    budgets = allocate_budget(early, keep, tile_grid, alpha=alpha)
    assert sum(budgets) == keep
    assert all(0 <= budget <= N for budget in budgets)
    as_released = allocate_budget(early, keep, tile_grid, alpha=alpha, fidelity=True)
    assert as_released[0] == min(int(keep * alpha), N)
    assert sum(as_released) <= keep


def test_the_mosaic_runs_through_tiles_row_by_row() -> None:
    ids = mosaic((2, 2), (1, 2), (10, 20))  # base tile 0..3, then 4 5 / 6 7 and 8 9 / 10 11
    assert ids.tolist() == [[4, 5, 8, 9], [6, 7, 10, 11]]
    assert mosaic((2, 2), (2, 1), (20, 10)).flatten().tolist() == list(range(4, 12))


@pytest.mark.parametrize(
    ("image_size", "rows", "columns"),
    [((672, 672), 48, 48), ((336, 672), 24, 48), ((672, 336), 48, 24), ((500, 672), 36, 48), ((10, 672), 0, 48)],
)
def test_padding_is_removed_at_two_opposite_sides(image_size: tuple[int, int], rows: int, columns: int) -> None:
    ids = mosaic((24, 24), (2, 2), image_size)
    assert ids.shape == (rows, columns)
    if ids.size:
        top, left = (48 - rows) // 2, (48 - columns) // 2
        first = int(ids[0, 0])
        tile, row, column = first // 576, first % 576 // 24, first % 24
        assert tile == 1 + top // 24 * 2 + left // 24
        assert (row, column) == (top % 24, left % 24)
