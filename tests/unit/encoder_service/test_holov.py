"""HoloV: allocation of the budget over crops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunedTokens, PrunerInput, TowerFeatures
from encoder_service.pruners.holov import crop_quotas, crop_sizes, default_crops, redistribute
from encoder_service.pruners.tower_outputs import SALIENCY_SECOND_LAST

N = 30


def pruned(attention: torch.Tensor, keep: int, **params: object) -> PrunedTokens:
    vision = TowerFeatures(torch.ones(len(attention), 2), (1, len(attention)), {SALIENCY_SECOND_LAST: attention})
    return PRUNERS["holov"].bind(params).prune(PrunerInput(vision, keep))


@pytest.mark.parametrize(
    ("num_patches", "keep", "crops"),
    [(576, 192, 5), (576, 128, 8), (576, 64, 16), (2880, 320, 16), (576, 575, 1), (576, 1, 576), (4, 1, 4)],
)
def test_the_number_of_crops_follows_the_budget(num_patches: int, keep: int, crops: int) -> None:
    assert default_crops(num_patches, keep) == crops


def test_the_first_crops_are_one_longer() -> None:
    assert crop_sizes(11, 4) == [3, 3, 3, 2]
    assert crop_sizes(4, 4) == [1, 1, 1, 1]


def test_a_crop_gets_its_share_of_mean_attention_and_the_remainder_goes_to_the_largest_weights() -> None:
    attention = torch.tensor([0.0, 0.2, 0.5, 0.5, 0.25, 0.15])  # means .1, .5, .2: of 7 tokens .875, 4.375, 1.75
    quotas, rank = crop_quotas(attention, [2, 2, 2], 7)
    assert quotas.tolist() == [0, 5, 2]
    assert rank.tolist() == [2, 0, 1]


def test_without_any_attention_tokens_are_allocated_in_rounds() -> None:
    assert crop_quotas(torch.zeros(9), [3, 3, 3], 7)[0].tolist() == [3, 2, 2]


@given(st.lists(st.integers(0, 9), min_size=N, max_size=N), st.integers(1, N - 1), st.integers(1, N))
@settings(max_examples=80, deadline=None)
def test_tokens_come_crop_by_crop_with_the_most_attended_first(scores: list[int], keep: int, crops: int) -> None:
    attention = torch.tensor(scores, dtype=torch.float64)
    kept = pruned(attention, keep, crops=crops).origins.tolist()
    assert len(set(kept)) == len(kept) == keep
    start = 0
    for size in crop_sizes(N, crops):
        inside = [i for i in kept if start <= i < start + size]
        best = sorted(range(start, start + size), key=lambda i: (-scores[i], i))[: len(inside)]
        assert inside == (sorted(best) if len(inside) == size else best)
        assert kept[: len(inside)] == inside
        kept, start = kept[len(inside) :], start + size
    assert not kept


@given(seed=st.integers(0, 1000), keep=st.integers(1, N - 1), crops=st.integers(1, N))
@settings(max_examples=80, deadline=None)
def test_excess_goes_to_the_crops_with_room_and_budgets_never_exceed_sizes(seed: int, keep: int, crops: int) -> None:
    attention = (5 * torch.randn(N, generator=torch.Generator().manual_seed(seed))).softmax(0)
    sizes = crop_sizes(N, crops)
    quotas, rank = crop_quotas(attention, sizes, keep)
    assert sum(quotas) == keep
    budgets = redistribute(quotas, sizes, rank).tolist()
    assert sum(budgets) == keep
    assert all(budget <= size for budget, size in zip(budgets, sizes, strict=True))
    assert all(budget >= min(quota, size) for budget, quota, size in zip(budgets, quotas.tolist(), sizes, strict=True))


def test_excess_is_allocated_one_token_each_by_weight() -> None:
    quotas, rank = torch.tensor([9, 1, 0, 1]), torch.tensor([0, 2, 3, 1])
    assert redistribute(quotas, [4, 4, 4, 1], rank).tolist() == [4, 4, 2, 1]


def test_fidelity_replaces_the_excess_by_zero_vectors() -> None:
    attention = torch.zeros(16)
    attention[:4] = 1.0
    assert pruned(attention, 8, crops=4).origins.tolist()[:4] == [0, 1, 2, 3]
    assert (pruned(attention, 8, crops=4).origins >= 0).all()
    result = pruned(attention, 8, crops=4, fidelity=True)
    assert result.origins.tolist() == [0, 1, 2, 3, -3, -3, -3, -3]
    assert result.features.tolist() == [[1.0, 1.0]] * 4 + [[0.0, 0.0]] * 4
