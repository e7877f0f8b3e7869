"""HiRED on tiled pictures, and the geometry of tiles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners.hired import select_in_tiles, sub_image_quotas
from encoder_service.pruners.tiles import mosaic

GRID = (6, 6)
N = 36


def attend(*patches: tuple[int, int]) -> torch.Tensor:
    """Attention to some patches of the base tile, as (row, column)."""
    attention = torch.zeros(N)
    for row, column in patches:
        attention[row * GRID[1] + column] = 1.0
    return attention


# Nine marks: the upper right corner of the picture.
CORNER = attend(*((row, column) for row in range(3) for column in range(3, 6)))


def test_what_early_attention_marks_gets_the_budget_of_the_sub_image_that_shows_it() -> None:
    share = {"alpha": 0.75, "patch_grid": GRID, "tile_grid": (2, 2)}
    assert sub_image_quotas(CORNER, 20, **share) == [0, 20, 0, 0]
    # Strips of nine patches: a row and a half each.
    assert sub_image_quotas(CORNER, 20, **share, fidelity=True) == [6, 13, 0, 0]


@pytest.mark.parametrize(("tile_grid", "quotas"), [((1, 2), [0, 9]), ((2, 1), [9, 0]), ((3, 1), [6, 3, 0])])
def test_grids_that_are_not_square_are_read_by_rows_and_columns(tile_grid: tuple[int, int], quotas: list[int]) -> None:
    assert sub_image_quotas(CORNER, 9, alpha=0.75, patch_grid=GRID, tile_grid=tile_grid) == quotas


def test_a_base_tile_that_takes_everything_leaves_nothing() -> None:
    assert sub_image_quotas(CORNER, 0, alpha=1.0, patch_grid=GRID, tile_grid=(2, 2)) == [0, 0, 0, 0]


@given(
    seed=st.integers(0, 1000),
    rate=st.floats(0.01, 1),
    alpha=st.floats(0, 1),
    tile_grid=st.sampled_from([(1, 2), (2, 1), (2, 2), (1, 3), (3, 1)]),
    fidelity=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_each_tile_keeps_its_best_and_all_together_at_most_the_budget(
    seed: int, rate: float, alpha: float, tile_grid: tuple[int, int], fidelity: bool
) -> None:
    generator, num_tiles = torch.Generator().manual_seed(seed), 1 + tile_grid[0] * tile_grid[1]
    early, attention = torch.rand(N, generator=generator), torch.rand(num_tiles, N, generator=generator)
    mask = select_in_tiles(
        early, attention, rate=rate, alpha=alpha, patch_grid=GRID, tile_grid=tile_grid, fidelity=fidelity
    )
    budget = int(num_tiles * N * rate)
    assert int(mask.sum()) <= budget
    assert int(mask[0].sum()) == min(int(budget * alpha), N)
    for kept, scores in zip(mask, attention, strict=True):
        if kept.any() and not kept.all():
            assert scores[kept].min() >= scores[~kept].max()


def test_the_mosaic_runs_through_tiles_row_by_row() -> None:
    ids = mosaic((2, 2), (1, 2), (10, 20))  # base tile 0..3, then 4 5 / 6 7 and 8 9 / 10 11
    assert ids.tolist() == [4, 5, 8, 9, 6, 7, 10, 11]
    assert mosaic((2, 2), (2, 1), (20, 10)).tolist() == list(range(4, 12))


@pytest.mark.parametrize(
    ("image_size", "rows", "columns"),
    [((672, 672), 48, 48), ((336, 672), 24, 48), ((672, 336), 48, 24), ((500, 672), 36, 48), ((10, 672), 0, 48)],
)
def test_padding_is_cut_away_at_two_opposite_sides(image_size: tuple[int, int], rows: int, columns: int) -> None:
    ids = mosaic((24, 24), (2, 2), image_size)
    assert len(ids) == rows * columns
    if len(ids):
        top, left = (48 - rows) // 2, (48 - columns) // 2
        tile, row, column = int(ids[0]) // 576, int(ids[0]) % 576 // 24, int(ids[0]) % 24
        assert tile == 1 + top // 24 * 2 + left // 24
        assert (row, column) == (top % 24, left % 24)
