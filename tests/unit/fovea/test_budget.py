"""Budgets of images and videos with several tiles or frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fovea.budget import Budget, allocate_budget

SIZES = st.lists(st.integers(1, 600), min_size=1, max_size=12)


@given(SIZES, st.integers(1, 8000))
def test_a_count_is_allocated_exactly_and_in_proportion(sizes: list[int], keep: int) -> None:
    allocated = allocate_budget(sizes, Budget(keep_tokens=keep))
    total = min(keep, sum(sizes))
    assert sum(allocated) == total
    for kept, size in zip(allocated, sizes, strict=True):
        assert 0 <= kept <= size
        assert abs(kept - total * size / sum(sizes)) < 1


@given(SIZES, st.floats(0, 1, exclude_min=True))
def test_a_ratio_applies_to_each_tile_or_frame(sizes: list[int], ratio: float) -> None:
    budget = Budget(keep_ratio=ratio)
    assert allocate_budget(sizes, budget) == tuple(budget.resolve(size) for size in sizes)


def test_the_papers_tiles() -> None:
    assert allocate_budget([576] * 5, Budget(keep_tokens=320)) == (64,) * 5
    assert allocate_budget([576] * 5, Budget(keep_ratio=320 / 2880)) == (64,) * 5
    assert allocate_budget([576] * 3, Budget(keep_ratio=320 / 2880)) == (64,) * 3
    assert allocate_budget([10, 10, 10], Budget(keep_tokens=2)) == (1, 1, 0)


def test_a_budget_is_a_count_or_a_ratio_but_not_both() -> None:
    with pytest.raises(ValueError, match="one of them"):
        Budget(keep_tokens=1, keep_ratio=0.5)


def test_an_auto_budget_cannot_be_allocated_by_size() -> None:
    assert Budget(max_tokens=3).is_auto
    with pytest.raises(ValueError, match="keep_tokens or keep_ratio"):
        allocate_budget([4], Budget())
