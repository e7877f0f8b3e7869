"""The `fovea` pruner: facility location over importance, and its merging."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.auto_budget import peak_clarity
from encoder_service.pruners.base import PrunedTokens, PrunerInput, TextFeatures, TowerFeatures
from encoder_service.pruners.facility_location import (
    counts_to_reach,
    greedy_facility_location,
    lazy_greedy_facility_location,
    values_of_greedy_sets,
)
from encoder_service.pruners.fovea import FoveaParameters, importance
from encoder_service.pruners.merging import merge_weighted
from encoder_service.pruners.tower_outputs import SALIENCY_LAST, OutputKind, TowerOutput

SIDE, WIDTH = 6, 16
N = SIDE * SIDE


def image_features(
    objects: list[list[int]], saliency: dict[int, float], *, looks: list[int] | None = None
) -> TowerFeatures:
    """Features of objects on a background.

    Each object is a list of patches with a common direction (its own or that of `looks`) and a little noise. The joint
    space has the same directions.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.zeros(N, WIDTH)
    for i, patches in enumerate(objects):
        hidden[patches, 1 + (i if looks is None else looks[i])] = 4.0
    noisy = hidden + 5 + 0.2 * torch.randn(N, WIDTH, generator=generator)
    salient = torch.full((N,), 0.01)
    for i, value in saliency.items():
        salient[objects[i]] = value
    joint = torch.cat([torch.zeros(1, WIDTH), hidden + 0.1])
    return TowerFeatures(noisy, (SIDE, SIDE), {TowerOutput(OutputKind.JOINT, qkv="qqv"): joint, SALIENCY_LAST: salient})


def question_about(obj: int) -> TextFeatures:
    eos = torch.zeros(1, WIDTH)
    eos[0, 1 + obj] = 1
    return TextFeatures(eos.repeat(3, 1), eos, torch.tensor([False, True, False]))


def pruned(vision: TowerFeatures, keep: int, text: TextFeatures | None = None, name: str = "fovea") -> PrunedTokens:
    return PRUNERS[name].bind({}).prune(PrunerInput(vision, keep, text=text))


def kept_per_object(result: PrunedTokens, objects: list[list[int]]) -> list[int]:
    """Number of kept patches on each object."""
    return [len(set(result.origins.tolist()) & set(patches)) for patches in objects]


BIG, SMALL, FAINT = [0, 1, 2, 6, 7, 8, 12, 13, 14], [16, 17], [33, 34]


def test_a_salient_object_does_not_use_up_the_budget_of_the_others() -> None:
    objects = [BIG, SMALL, FAINT]
    vision = image_features(objects, {0: 1.0, 1: 0.3, 2: 0.3})
    assert kept_per_object(pruned(vision, 4), objects) == [1, 1, 1]  # and one for the background
    assert kept_per_object(pruned(vision, 4, name="cls"), objects) == [4, 0, 0]


def test_similar_objects_that_are_far_apart_are_both_kept() -> None:
    objects = [[0, 1, 6, 7], [28, 29, 34, 35]]
    assert kept_per_object(pruned(image_features(objects, {0: 1.0, 1: 1.0}, looks=[0, 0]), 2), objects) == [1, 1]


def test_the_object_of_the_question_is_kept_without_saliency() -> None:
    objects = [BIG, SMALL, FAINT]
    vision = image_features(objects, {0: 1.0, 1: 1.0})
    assert kept_per_object(pruned(vision, 2), objects)[2] == 0
    assert kept_per_object(pruned(vision, 2, question_about(2)), objects)[2] == 1


def test_background_does_not_weaken_a_kept_object() -> None:
    vision = image_features([[14]], {0: 1.0})
    result = pruned(vision, 1)
    assert result.origins.tolist() == [14]
    assert result.cluster_of_patch.tolist() == [0] * N
    torch.testing.assert_close(result.features[0].norm(), vision.hidden[14].norm())
    mean = vision.hidden.mean(0)
    cosine = torch.cosine_similarity
    assert cosine(result.features[0], vision.hidden[14], dim=0) > cosine(mean, vision.hidden[14], dim=0)


def test_fewer_tokens_follow_the_question_more_and_more_tokens_spread_out() -> None:
    saliency, scores, params = torch.zeros(N), torch.zeros(N), FoveaParameters()
    saliency[3] = scores[5] = 1
    few, many = (importance(saliency, scores, keep, params) for keep in (2, 12))
    assert few[5] > many[5] > few[0]
    assert many[0] > few[0] > 0
    for weights in (few, many):
        assert weights.sum() == pytest.approx(1)


def _objective(similarity: Tensor, weights: Tensor, chosen: list[int]) -> float:
    return float(weights @ similarity[:, chosen].amax(dim=1))


@given(seed=st.integers(0, 2**40), k=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_greedy_set_is_near_the_optimum(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(8, 8, generator=generator, dtype=torch.float64)
    weights = torch.rand(8, generator=generator, dtype=torch.float64)
    chosen = greedy_facility_location(similarity, weights, k).tolist()
    assert len(set(chosen)) == k
    best = max(_objective(similarity, weights, list(subset)) for subset in combinations(range(8), k))
    assert _objective(similarity, weights, chosen) >= (1 - 1 / 2.718281828) * best
    assert chosen[0] == max(range(8), key=lambda j: _objective(similarity, weights, [j]))


def test_equal_gains_go_to_the_smaller_index() -> None:
    assert greedy_facility_location(torch.eye(5), torch.ones(5), 3).tolist() == [0, 1, 2]
    assert greedy_facility_location(torch.ones(4, 4), torch.ones(4), 4).tolist() == [0, 1, 2, 3]
    assert greedy_facility_location(torch.zeros(4, 4), torch.zeros(4), 2).tolist() == [0, 1]


def test_members_are_weighted_by_importance_and_the_norm_of_the_kept_patch_remains() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.1, 0.7], [1.0, 1.0]])
    cluster_of_patch, kept = torch.tensor([0, 0, 1, 0]), torch.tensor([0, 2])
    merged = merge_weighted(features, cluster_of_patch, torch.tensor([3.0, 1.0, 0.5, 0.0]), kept)
    torch.testing.assert_close(merged[0], torch.tensor([3.0, 1.0]) * 3 / 10**0.5)
    assert torch.equal(merged[1], features[2])
    alike = merge_weighted(features, cluster_of_patch, torch.zeros(4), kept)
    torch.testing.assert_close(alike[0], torch.tensor([1.0, 1.0]) * 3 / 2**0.5)


@given(seed=st.integers(0, 2**20), size=st.integers(1, 90), kinds=st.integers(1, 90), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_lazy_search_chooses_the_same_patches(seed: int, size: int, kinds: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(kinds, 6, generator=generator)[torch.randint(kinds, (size,), generator=generator)]
    unit = torch.nn.functional.normalize(vectors, dim=-1)  # equal patches where there are few kinds
    similarity = (unit @ unit.T).clamp_min(0)
    weights = torch.rand(size, generator=generator) * (torch.rand(size, generator=generator) < 0.8)
    k = data.draw(st.integers(1, size))
    want = greedy_facility_location(similarity, weights, k).tolist()
    assert lazy_greedy_facility_location(similarity, weights, k).tolist() == want


def test_an_early_stop_returns_the_first_of_the_same_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    similarity, weights = torch.rand(9, 9, generator=generator), torch.full((9,), 1 / 9)
    everything = greedy_facility_location(similarity, weights, 9).tolist()
    some = everything[: steps_to_reach(similarity, weights, 0.8)]
    assert _objective(similarity, weights, some) >= 0.8 > _objective(similarity, weights, some[:-1])
    # A second patch adds nothing.
    assert steps_to_reach(torch.ones(4, 4), torch.ones(4), 99) == 1
    assert steps_to_reach(torch.zeros(4, 4), torch.ones(4), 0.5) == 1


def steps_to_reach(similarity: torch.Tensor, weights: torch.Tensor, target: float) -> int:
    value = torch.tensor(target)
    return int(counts_to_reach(values_of_greedy_sets(similarity, weights, value), value))


def auto_keep(vision: TowerFeatures, text: TextFeatures | None, **params: float) -> int:
    fovea = PRUNERS["fovea"].bind(params)
    assert fovea.pruner.choose_keep is not None
    (keep,) = fovea.pruner.choose_keep(PrunerInput(vision, N, text=text), fovea.params)
    return keep


def test_a_clear_question_needs_fewer_tokens_than_the_whole_image() -> None:
    vision = image_features([[0], [5], [14], [30], [35]], dict.fromkeys(range(5), 1.0))
    assert 1 <= auto_keep(vision, question_about(0)) < auto_keep(vision, None) < N


def test_a_higher_target_needs_more_tokens() -> None:
    vision = image_features([[0], [5], [14], [30], [35]], dict.fromkeys(range(5), 1.0))
    counts = [auto_keep(vision, None, target=target) for target in (0.9, 0.95, 0.98, 1.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_clarity_is_high_for_one_peak_and_low_for_chance() -> None:
    one = torch.zeros(N)
    one[7] = 1
    assert peak_clarity(one) > 0.9
    assert peak_clarity(torch.randn(576, generator=torch.Generator().manual_seed(0))) == pytest.approx(0.5, abs=0.15)
    assert peak_clarity(torch.zeros(N)) == peak_clarity(torch.ones(1)) == 0
