"""FlowCut: its importance, its schedule, and towers of any depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunerInput, TowerFeatures
from encoder_service.pruners.flowcut import FlowCut, importance, num_kept

N = 40


@dataclass(frozen=True)
class Layer:
    """Layer of 2 heads whose attention goes to the patches with the largest `strength`."""

    index: int
    num_layers: int
    strength: torch.Tensor

    def cls_attention(self) -> torch.Tensor:
        return (5 * self.strength).softmax(0).expand(2, -1)

    def values(self) -> torch.Tensor:
        norms = torch.cat([torch.ones(1), self.strength])
        return norms[None, :, None].expand(2, -1, 3)


def schedule(num_layers: int, keep: int, num_patches: int = N, seed: int = 0) -> list[tuple[int, int]]:
    """Each pruning layer of a tower, and the number of patches kept after it."""
    generator, hook = torch.Generator().manual_seed(seed), FlowCut(keep).new_hook()
    strength, stages = torch.rand(num_patches, generator=generator), []
    for index in range(num_layers - 1):
        kept = hook.after_layer(Layer(index, num_layers, strength))
        if kept is not None:
            strength = strength[kept]
            stages.append((index, len(strength)))
    assert len(strength) == min(keep, num_patches)
    return stages


def test_importance_term_by_term() -> None:
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(5, generator=generator, dtype=torch.float64)
    values = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    similar = [0.0] * 5
    for head in values:
        weights = [math.exp(float(head[0] @ value)) for value in head]
        similar = [s + w / sum(weights) / 2 for s, w in zip(similar, weights[1:], strict=True)]
    strength = [float(((values[0, i] + values[1, i]) / 2).abs().sum()) for i in range(1, 6)]
    want = [(float(attention[i]) / float(attention.sum()) + similar[i] / sum(similar)) * strength[i] for i in range(5)]
    torch.testing.assert_close(importance(attention, values), torch.tensor(want, dtype=torch.float64))


def test_peaked_attention_drops_more_than_even_attention() -> None:
    even, peaked = torch.full((100,), 0.01), torch.zeros(100)
    peaked[3] = 1.0
    assert num_kept(even, 20, 4) == 100
    assert num_kept(peaked, 20, 4) == 100 - round(80 / 2)
    assert num_kept(peaked, 20, 1) == 20
    assert num_kept(torch.zeros(100), 20, 1) == 20  # attention that has underflown gives no NaN


def test_a_tower_of_24_prunes_after_odd_layers_and_ends_at_21() -> None:
    stages = schedule(24, 8)
    assert [layer for layer, _ in stages] == list(range(1, 22, 2))
    counts = [count for _, count in stages]
    assert counts == sorted(counts, reverse=True)
    assert counts[-2] > counts[-1] == 8


@given(num_layers=st.integers(2, 25), keep=st.integers(1, N), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_tower_of_any_depth_ends_at_the_budget(num_layers: int, keep: int, seed: int) -> None:
    stages = schedule(num_layers, keep, seed=seed)
    if keep < N:
        last = stages[-1][0]
        assert last <= max(num_layers - 3, num_layers - 2 if num_layers < 4 else 0)


@pytest.mark.parametrize(("num_layers", "last"), [(2, 0), (3, 1), (4, 1), (5, 1), (6, 3), (7, 3), (12, 9), (24, 21)])
def test_the_last_pruning_leaves_a_layer_to_read_where_there_is_one(num_layers: int, last: int) -> None:
    assert schedule(num_layers, 3)[-1] == (last, 3)


def test_a_budget_above_the_number_of_patches_prunes_nothing() -> None:
    assert schedule(24, N + 5) == []


def test_importance_accumulates_over_layers() -> None:
    """A patch of high early importance is kept although a later layer alone would drop it."""
    hook = FlowCut(1).new_hook()
    early = torch.tensor([0.0, 0.0, 9.0, 0.0])
    late = torch.tensor([0.3, 0.2, 0.0, 0.1])
    assert hook.after_layer(Layer(0, 4, early)) is None
    kept = hook.after_layer(Layer(1, 4, late))
    assert kept is not None
    assert kept.tolist() == [2]


def test_in_tower_pruners_are_equal_if_they_choose_alike() -> None:
    assert FlowCut(6) == FlowCut(6)
    assert len({FlowCut(6), FlowCut(6), FlowCut(7)}) == 2


def test_features_of_another_tower_are_refused() -> None:
    whole = TowerFeatures(torch.zeros(N, 2), (5, 8), {})
    bound = PRUNERS["flowcut"].bind({})
    with pytest.raises(ValueError, match="a tower that it has pruned to 6 patches"):
        bound.prune(PrunerInput(whole, 6))
    seven = TowerFeatures(torch.zeros(7, 2), (5, 8), {}, torch.arange(7))
    with pytest.raises(ValueError, match="a tower that it has pruned to 6 patches"):
        bound.prune(PrunerInput(seven, 6))
