"""Budgets of one medium and over its tiles or frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fovea.budget import allocate_budget, resolve_budget

SIZES = st.lists(st.integers(1, 600), min_size=1, max_size=12)


@given(SIZES, st.integers(1, 8000))
def test_a_count_is_shared_out_exactly_and_in_proportion(sizes: list[int], keep: int) -> None:
    shares = allocate_budget(sizes, keep_tokens=keep)
    total = min(keep, sum(sizes))
    assert sum(shares) == total
    for share, size in zip(shares, sizes, strict=True):
        assert 0 <= share <= size
        assert abs(share - total * size / sum(sizes)) < 1


@given(SIZES, st.floats(0, 1, exclude_min=True))
def test_a_ratio_applies_to_each_tile(sizes: list[int], ratio: float) -> None:
    assert allocate_budget(sizes, keep_ratio=ratio) == tuple(resolve_budget(size, keep_ratio=ratio) for size in sizes)


def test_the_papers_tiles() -> None:
    assert allocate_budget([576] * 5, keep_tokens=320) == (64,) * 5
    assert allocate_budget([576] * 5, keep_ratio=320 / 2880) == (64,) * 5
    assert allocate_budget([576] * 3, keep_ratio=320 / 2880) == (64,) * 3
    assert allocate_budget([10, 10, 10], keep_tokens=2) == (1, 1, 0)


def test_exactly_one_budget() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        allocate_budget([4], keep_tokens=1, keep_ratio=0.5)
