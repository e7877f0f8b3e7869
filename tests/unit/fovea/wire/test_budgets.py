"""Budgets in messages of both services."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fovea.budget import Budget
from fovea.errors import InvalidRequest
from fovea.v1.encoder_pb2 import EncodeRequest
from fovea.v1.llm_pb2 import LlmPruner
from fovea.wire.budgets import read_budget, write_budget

COUNTS_AND_RATIOS = st.one_of(
    st.integers(1, 2**32 - 1).map(Budget.count), st.floats(0, 1, exclude_min=True).map(Budget.ratio)
)
BOTH = pytest.mark.parametrize("kind", [EncodeRequest, LlmPruner])


@BOTH
@given(budget=COUNTS_AND_RATIOS)
def test_a_count_or_ratio_arrives_as_it_was_sent(kind: Any, budget: Budget) -> None:
    message = kind()
    write_budget(budget, message)
    assert read_budget(kind.FromString(message.SerializeToString())) == budget


@BOTH
@given(first=COUNTS_AND_RATIOS, second=COUNTS_AND_RATIOS)
def test_a_budget_replaces_the_one_before(kind: Any, first: Budget, second: Budget) -> None:
    message = kind()
    write_budget(first, message)
    write_budget(second, message)
    assert read_budget(message) == second


@BOTH
def test_an_unset_budget_is_none(kind: Any) -> None:
    assert read_budget(kind()) is None


def test_auto_is_for_the_encoder_alone() -> None:
    request = EncodeRequest()
    write_budget(Budget.auto(), request)
    assert read_budget(request) == Budget.auto()
    with pytest.raises(ValueError, match="LlmPruner has no auto budget"):
        write_budget(Budget.auto(), LlmPruner())


def test_keep_auto_false_is_no_budget() -> None:
    assert read_budget(EncodeRequest(keep_auto=False)) is None


@BOTH
@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("keep_tokens", 0, "at least 1"),
        ("keep_ratio", 0.0, r"\(0, 1\]"),
        ("keep_ratio", 1.1, r"\(0, 1\]"),
        ("keep_ratio", math.nan, r"\(0, 1\]"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_field(
    kind: Any, field: str, value: float, accepted: str
) -> None:
    with pytest.raises(InvalidRequest, match=accepted) as refused:
        read_budget(kind(**{field: value}))
    assert refused.value.param == field
    with pytest.raises(InvalidRequest, match=accepted) as refused:
        read_budget(kind(**{field: value}), path="llm_pruner.")
    assert refused.value.param == f"llm_pruner.{field}"
