"""The `fovea` pruner: facility location over importance, and its merging."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunedTokens, PrunerInput, TextFeatures, TowerFeatures
from encoder_service.pruners.facility_location import greedy_facilities
from encoder_service.pruners.fovea import FoveaParameters, importance
from encoder_service.pruners.fovea_budget import peak_clarity
from encoder_service.pruners.merging import merge_weighted
from encoder_service.pruners.tower_outputs import SALIENCY_LAST, OutputKind, TowerOutput

SIDE, WIDTH = 6, 16
N = SIDE * SIDE


def picture(things: list[list[int]], saliency: dict[int, float], *, looks: list[int] | None = None) -> TowerFeatures:
    """Things on a background: each list of patches shares a direction of its own (or that of `looks`), with a little
    noise. The joint space shows the same directions."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.zeros(N, WIDTH)
    for i, patches in enumerate(things):
        hidden[patches, 1 + (i if looks is None else looks[i])] = 4.0
    noisy = hidden + 5 + 0.2 * torch.randn(N, WIDTH, generator=generator)
    salient = torch.full((N,), 0.01)
    for i, value in saliency.items():
        salient[things[i]] = value
    joint = torch.cat([torch.zeros(1, WIDTH), hidden + 0.1])
    return TowerFeatures(noisy, (SIDE, SIDE), {TowerOutput(OutputKind.JOINT, qkv="qqv"): joint, SALIENCY_LAST: salient})


def question_about(thing: int) -> TextFeatures:
    eos = torch.zeros(1, WIDTH)
    eos[0, 1 + thing] = 1
    return TextFeatures(eos.repeat(3, 1), eos, torch.tensor([False, True, False]))


def pruned(vision: TowerFeatures, keep: int, text: TextFeatures | None = None, name: str = "fovea") -> PrunedTokens:
    return PRUNERS[name].bind({}).prune(PrunerInput(vision, keep, text=text))


def touched(result: PrunedTokens, things: list[list[int]]) -> list[int]:
    """How many kept patches lie on each thing."""
    return [len(set(result.origins.tolist()) & set(patches)) for patches in things]


BIG, SMALL, FAINT = [0, 1, 2, 6, 7, 8, 12, 13, 14], [16, 17], [33, 34]


def test_a_salient_thing_does_not_take_the_places_of_the_others() -> None:
    things = [BIG, SMALL, FAINT]
    vision = picture(things, {0: 1.0, 1: 0.3, 2: 0.3})
    assert touched(pruned(vision, 4), things) == [1, 1, 1]  # and one for the background
    assert touched(pruned(vision, 4, name="cls"), things) == [4, 0, 0]


def test_things_that_look_alike_and_lie_apart_are_kept_both() -> None:
    things = [[0, 1, 6, 7], [28, 29, 34, 35]]
    assert touched(pruned(picture(things, {0: 1.0, 1: 1.0}, looks=[0, 0]), 2), things) == [1, 1]


def test_what_is_asked_about_is_kept_though_nothing_stands_out_there() -> None:
    things = [BIG, SMALL, FAINT]
    vision = picture(things, {0: 1.0, 1: 1.0})
    assert touched(pruned(vision, 2), things)[2] == 0
    assert touched(pruned(vision, 2, question_about(2)), things)[2] == 1


def test_background_does_not_fade_a_kept_thing() -> None:
    vision = picture([[14]], {0: 1.0})
    result = pruned(vision, 1)
    assert result.origins.tolist() == [14]
    assert result.cluster_of_patch.tolist() == [0] * N
    torch.testing.assert_close(result.features[0].norm(), vision.hidden[14].norm())
    mean = vision.hidden.mean(0)
    cosine = torch.cosine_similarity
    assert cosine(result.features[0], vision.hidden[14], dim=0) > cosine(mean, vision.hidden[14], dim=0)


def test_fewer_tokens_listen_more_to_the_question_and_more_tokens_spread_out() -> None:
    saliency, scores, params = torch.zeros(N), torch.zeros(N), FoveaParameters()
    saliency[3] = scores[5] = 1
    few, many = (importance(saliency, scores, keep, params) for keep in (2, 12))
    assert few[5] > many[5] > few[0]
    assert many[0] > few[0] > 0
    for weights in (few, many):
        assert weights.sum() == pytest.approx(1)


def _value(similarity: Tensor, weights: Tensor, chosen: list[int]) -> float:
    return float(weights @ similarity[:, chosen].amax(dim=1))


@given(seed=st.integers(0, 2**40), k=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_greedy_set_comes_near_the_best_one(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(8, 8, generator=generator, dtype=torch.float64)
    weights = torch.rand(8, generator=generator, dtype=torch.float64)
    chosen = greedy_facilities(similarity, weights, k).tolist()
    assert len(set(chosen)) == k
    best = max(_value(similarity, weights, list(some)) for some in combinations(range(8), k))
    assert _value(similarity, weights, chosen) >= (1 - 1 / 2.718281828) * best
    assert chosen[0] == max(range(8), key=lambda j: _value(similarity, weights, [j]))


def test_equal_gains_go_to_the_smaller_index() -> None:
    assert greedy_facilities(torch.eye(5), torch.ones(5), 3).tolist() == [0, 1, 2]
    assert greedy_facilities(torch.ones(4, 4), torch.ones(4), 4).tolist() == [0, 1, 2, 3]
    assert greedy_facilities(torch.zeros(4, 4), torch.zeros(4), 2).tolist() == [0, 1]


def test_members_weigh_by_importance_and_a_centre_keeps_its_length() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.1, 0.7], [1.0, 1.0]])
    cluster_of_patch, kept = torch.tensor([0, 0, 1, 0]), torch.tensor([0, 2])
    merged = merge_weighted(features, cluster_of_patch, torch.tensor([3.0, 1.0, 0.5, 0.0]), kept)
    torch.testing.assert_close(merged[0], torch.tensor([3.0, 1.0]) * 3 / 10**0.5)
    assert torch.equal(merged[1], features[2])
    alike = merge_weighted(features, cluster_of_patch, torch.zeros(4), kept)
    torch.testing.assert_close(alike[0], torch.tensor([1.0, 1.0]) * 3 / 2**0.5)


def test_stopping_early_takes_the_first_of_the_same_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    similarity, weights = torch.rand(9, 9, generator=generator), torch.full((9,), 1 / 9)
    everything = greedy_facilities(similarity, weights, 9).tolist()
    some = greedy_facilities(similarity, weights, 9, enough=0.8).tolist()
    assert some == everything[: len(some)]
    assert _value(similarity, weights, some) >= 0.8 > _value(similarity, weights, some[:-1])
    assert greedy_facilities(torch.ones(4, 4), torch.ones(4), 4, enough=99).tolist() == [0]  # a second adds nothing
    assert greedy_facilities(torch.zeros(4, 4), torch.ones(4), 4, enough=0.5).tolist() == [0]


def chosen(vision: TowerFeatures, text: TextFeatures | None, **params: float) -> int:
    choose = PRUNERS["fovea"].bind(params).choose_keep
    assert choose is not None
    return choose(PrunerInput(vision, N, text=text))


def test_a_clear_question_needs_fewer_tokens_than_the_whole_picture() -> None:
    vision = picture([[0], [5], [14], [30], [35]], dict.fromkeys(range(5), 1.0))
    assert 1 <= chosen(vision, question_about(0)) < chosen(vision, None) < N


def test_a_higher_target_takes_more_tokens_and_the_highest_all() -> None:
    vision = picture([[0], [5], [14], [30], [35]], dict.fromkeys(range(5), 1.0))
    counts = [chosen(vision, None, target=target) for target in (0.9, 0.95, 0.98, 1.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_clarity_is_high_for_one_peak_and_low_for_chance() -> None:
    one = torch.zeros(N)
    one[7] = 1
    assert peak_clarity(one) > 0.9
    assert peak_clarity(torch.randn(576, generator=torch.Generator().manual_seed(0))) == pytest.approx(0.5, abs=0.15)
    assert peak_clarity(torch.zeros(N)) == peak_clarity(torch.ones(1)) == 0
