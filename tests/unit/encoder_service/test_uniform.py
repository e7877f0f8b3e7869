"""Lattice of the `uniform` pruner."""

from __future__ import annotations

import pytest

from encoder_service.pruners.uniform import lattice


def test_a_square_number_of_a_square_grid_is_a_square_lattice() -> None:
    assert lattice((6, 6), 9).tolist() == [7, 9, 11, 19, 21, 23, 31, 33, 35]
    assert lattice((24, 24), 64).tolist()[:8] == [25, 28, 31, 34, 37, 40, 43, 46]


@pytest.mark.parametrize("rows", range(1, 10))
@pytest.mark.parametrize("columns", range(1, 10))
def test_any_count_on_any_grid_has_no_repeats(rows: int, columns: int) -> None:
    for k in range(1, rows * columns + 1):
        kept = lattice((rows, columns), k).tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == k
        assert set(kept) <= set(range(rows * columns))


@pytest.mark.parametrize("k", [16, 33, 64, 128, 192, 300])
def test_no_quarter_of_the_image_gets_much_more_than_its_share(k: int) -> None:
    quarters = [0, 0, 0, 0]
    for index in lattice((24, 24), k).tolist():
        quarters[index // 24 // 12 * 2 + index % 24 // 12] += 1
    assert max(quarters) - min(quarters) <= 0.15 * k
