"""Budgets: which are accepted, what they keep, and how they are allocated over tiles and frames."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fovea.budget import Budget, InvalidBudget, allocate_budget

SIZES = st.lists(st.integers(1, 600), min_size=1, max_size=12)


@given(SIZES, st.integers(1, 8000))
def test_a_count_is_allocated_exactly_and_in_proportion(sizes: list[int], keep: int) -> None:
    allocated = allocate_budget(sizes, Budget.count(keep))
    total = min(keep, sum(sizes))
    assert sum(allocated) == total
    for kept, size in zip(allocated, sizes, strict=True):
        assert 0 <= kept <= size
        assert abs(kept - total * size / sum(sizes)) < 1


@given(SIZES, st.floats(0, 1, exclude_min=True))
def test_a_ratio_applies_to_each_tile_or_frame(sizes: list[int], ratio: float) -> None:
    budget = Budget.ratio(ratio)
    assert allocate_budget(sizes, budget) == tuple(budget.resolve(size) for size in sizes)


def test_the_papers_tiles() -> None:
    assert allocate_budget([576] * 5, Budget.count(320)) == (64,) * 5
    assert allocate_budget([576] * 5, Budget.ratio(320 / 2880)) == (64,) * 5
    assert allocate_budget([576] * 3, Budget.ratio(320 / 2880)) == (64,) * 3
    assert allocate_budget([10, 10, 10], Budget.count(2)) == (1, 1, 0)


def test_an_auto_budget_cannot_be_allocated_by_size() -> None:
    with pytest.raises(ValueError, match="keep_tokens or keep_ratio"):
        allocate_budget([4], Budget.auto())


@pytest.mark.parametrize(
    ("fields", "field", "accepted"),
    [
        ((1, 0.5), "keep_ratio", "at most one of keep_tokens and keep_ratio"),
        (("auto", 1.0), "keep_ratio", "at most one of keep_tokens and keep_ratio"),
        ((0, None), "keep_tokens", "keep_tokens 0 is not accepted; at least 1"),
        ((-3, None), "keep_tokens", "at least 1"),
        ((2**32, None), "keep_tokens", "at most 4294967295"),
        ((None, 0), "keep_ratio", r"\(0, 1\]"),
        ((None, -0.5), "keep_ratio", r"\(0, 1\]"),
        ((None, 1.0000000000000002), "keep_ratio", r"keep_ratio 1.0000000000000002 is not in \(0, 1\]"),
        ((None, math.nan), "keep_ratio", r"\(0, 1\]"),
        ((None, math.inf), "keep_ratio", r"\(0, 1\]"),
    ],
)
def test_what_is_out_of_range_or_given_twice_is_refused(fields: tuple[Any, Any], field: str, accepted: str) -> None:
    with pytest.raises(InvalidBudget, match=accepted) as refused:
        Budget.of(*fields)
    assert refused.value.field == field


def test_a_clients_fields_are_one_budget_or_none() -> None:
    assert Budget.of(None, None) is None
    assert Budget.of(3, None) == Budget.count(3)
    assert Budget.of(2**32 - 1, None) == Budget.count(2**32 - 1)
    assert Budget.of("auto", None) == Budget.auto()
    assert Budget.of(None, 5e-324) == Budget.ratio(5e-324)


def test_budgets_that_keep_the_same_are_equal_and_others_are_not() -> None:
    different = [Budget.count(1), Budget.ratio(1), Budget.auto(), Budget.count(1).capped(1), Budget.count(2)]
    assert len(set(different)) == len(different)
    assert Budget.ratio(1) == Budget.ratio(1.0)
    assert hash(Budget.ratio(1)) == hash(Budget.ratio(1.0))
    assert repr(Budget.ratio(1)) == repr(Budget.ratio(1.0))


def test_a_cap_changes_nothing_else() -> None:
    budget = Budget.ratio(0.5).capped(7)
    assert (budget.keep_tokens, budget.keep_ratio, budget.is_auto, budget.max_tokens) == (None, 0.5, False, 7)
    assert budget.capped(9).max_tokens == 9
    assert budget.capped(None) == Budget.ratio(0.5)
    assert Budget.auto().capped(3).is_auto
