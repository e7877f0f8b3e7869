"""Pruning plans: published settings, other budgets, other depths, other ways to count."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.budget import Budget
from llm_service.pruners import PRUNERS
from llm_service.pruners.plan import UnreachableBudget, bind
from llm_service.pruners.schedule import interpolate, scaled_layers

SINGLE_STAGE = ["fastv", "adaptprune", "flowcut_llm"]


def plan(name, keep, *, num_visual=576, num_layers=32, **params):
    return bind(PRUNERS[name], params).plan(Budget.count(keep), num_visual, num_layers)


def stages(name, keep, **options):
    return [(stage.layer, stage.keep) for stage in plan(name, keep, **options).stages]


@pytest.mark.parametrize(
    ("name", "keep", "expected"),
    [
        ("fastv", 166, [(2, 166)]),
        ("adaptprune", 57, [(2, 57)]),
        ("flowcut_llm", 320, [(2, 320)]),
        ("sparsevlm", 192, [(3, 300), (7, 200), (16, 110)]),
        ("sparsevlm", 128, [(3, 303), (7, 110), (16, 36)]),
        ("sparsevlm", 96, [(3, 238), (7, 48), (16, 26)]),
        ("sparsevlm", 64, [(3, 66), (7, 30), (16, 17)]),
        ("sparsevlm_plus", 192, [(3, 300), (7, 200), (16, 118)]),
        ("sparsevlm_plus", 128, [(3, 238), (7, 108), (16, 60)]),
        ("sparsevlm_plus", 64, [(3, 66), (7, 34), (16, 20)]),
        ("pyramiddrop", 192, [(2, 322), (8, 180), (16, 100)]),
        ("pyramiddrop", 128, [(2, 241), (8, 101), (16, 42)]),
        ("pyramiddrop", 64, [(2, 109), (8, 20), (16, 3)]),
        ("v2drop", 192, [(3, 288), (17, 86), (22, 1)]),
        ("v2drop", 128, [(3, 161), (17, 40), (22, 1)]),
        ("v2drop", 64, [(3, 28), (17, 1)]),
    ],
)
def test_published_budgets_give_published_schedules(name, keep, expected):
    assert stages(name, keep) == expected


def test_tokens_by_layer_include_merged_tokens():
    assert plan("sparsevlm", 192).visual_tokens == (*[576] * 3, *[309] * 4, *[204] * 9, *[113] * 16)
    assert plan("sparsevlm", 192).average == pytest.approx(206.5, abs=0.05)
    assert plan("v2drop", 64).average == pytest.approx(66.7, abs=0.05)


@pytest.mark.parametrize(("keep", "left"), [(192, 166), (128, 98), (64, 30)])
def test_fastv_by_average_keeps_the_count_of_the_formula(keep, left):
    assert stages("fastv", keep, counting="average") == [(2, left)]


@pytest.mark.parametrize("name", PRUNERS)
@settings(deadline=None)
@given(keep=st.integers(60, 575))
def test_an_average_is_met_to_within_whole_tokens(name, keep):
    pruning = plan(name, keep, counting="average")
    # One token more or less at each of the first two stages changes the average by at most 1.5; at the knots of the
    # published lists three stages change at once.
    assert pruning is None or abs(pruning.average - keep) <= 1.5


@pytest.mark.parametrize("name", PRUNERS)
@settings(deadline=None)
@given(keep=st.integers(1, 575))
def test_first_counts_the_tokens_after_the_first_stage(name, keep):
    pruning = plan(name, keep, counting="first")
    left = pruning.visual_tokens[pruning.stages[0].layer]
    # Merging adds tokens to the kept ones, and at the knots of the lists three stages change at once.
    assert abs(left - keep) <= (20 if name == "sparsevlm" else 0)


def test_an_average_below_the_first_layers_is_refused_with_the_least():
    with pytest.raises(UnreachableBudget, match=r"average of 30 of 576 .* make 37, the least accepted"):
        plan("fastv", 30, counting="average")


@pytest.mark.parametrize("name", PRUNERS)
@settings(deadline=None)
@given(
    num_visual=st.integers(1, 2880),
    num_layers=st.integers(2, 80),
    data=st.data(),
    counting=st.sampled_from(["own", "first"]),
)
def test_stages_lie_within_the_model_and_go_down(name, num_visual, num_layers, data, counting):
    keep = data.draw(st.integers(1, num_visual + 1))
    pruning = plan(name, keep, num_visual=num_visual, num_layers=num_layers, counting=counting)
    if keep >= num_visual:
        assert pruning is None
    if pruning is None:
        return
    layers = [stage.layer for stage in pruning.stages]
    assert layers == sorted(set(layers))
    assert 1 <= layers[0] <= layers[-1] < num_layers
    assert len(pruning.visual_tokens) == num_layers
    assert all(later <= earlier for earlier, later in itertools.pairwise(pruning.visual_tokens))
    assert min(pruning.visual_tokens[1:]) >= 1
    if name in SINGLE_STAGE:
        assert pruning.visual_tokens[-1] == keep


def test_a_stage_that_merges_as_many_tokens_as_it_drops_is_left_out():
    assert plan("sparsevlm", 9, num_visual=10) is None
    assert plan("fastv", 9, num_visual=10).visual_tokens[-1] == 9


@pytest.mark.parametrize("name", PRUNERS)
@settings(deadline=None)
@given(num_visual=st.integers(2, 700), data=st.data())
def test_a_larger_budget_never_processes_less(name, num_visual, data):
    smaller = data.draw(st.integers(1, num_visual - 1))
    first, second = (plan(name, keep, num_visual=num_visual) for keep in (smaller, smaller + 1))
    # Each stage is rounded separately, which may cost part of a token.
    assert second is None or first.average <= second.average + 0.5


@pytest.mark.parametrize(
    ("layers", "num_layers", "expected"),
    [
        ([2, 8, 16], 32, (2, 8, 16)),
        ([2, 8, 16], 40, (2, 10, 20)),
        ([3, 17, 22], 12, (1, 6, 8)),
        ([2, 6, 15], 3, (1, 2, 3)),
        ([2], 4, (1,)),
    ],
)
def test_layers_of_other_depths(layers, num_layers, expected):
    assert scaled_layers(layers, num_layers) == expected


def test_interpolation_is_exact_at_published_settings():
    knots = ((0, (0,)), (1 / 3, (0.5596,)), (1, (1,)))
    assert interpolate(192 / 576, knots) == (0.5596,)
    assert interpolate(1, knots) == (1,)
    assert interpolate(2 / 3, knots)[0] == pytest.approx((0.5596 + 1) / 2)


def test_a_ratio_is_rounded_and_leaves_at_least_one():
    assert Budget.ratio(1 / 9).resolve(576) == 64
    assert Budget.ratio(0.001).resolve(10) == 1
    assert Budget.ratio(1).resolve(10) == 10
    assert Budget.count(50).resolve(10) == 10
    assert Budget.ratio(0.5).resolve(0) == 0
