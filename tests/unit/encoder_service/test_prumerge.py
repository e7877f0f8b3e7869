"""PruMerge and PruMerge+: kept patches, their order, and what is merged into each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunedTokens, PrunerInput, TowerFeatures
from encoder_service.pruners.prumerge import dropped_of_released, merge_neighbours, most_attended, num_outliers
from encoder_service.pruners.prumerge_plus import adaptive_sample, even_sample, released_sample
from encoder_service.pruners.tower_outputs import KEYS, SALIENCY_ONE_HEAD

N, WIDTH = 40, 5


def image_features(seed: int) -> TowerFeatures:
    generator = torch.Generator().manual_seed(seed)
    outputs = {
        SALIENCY_ONE_HEAD: (3 * torch.randn(N, generator=generator, dtype=torch.float64)).softmax(0),
        KEYS: torch.randn(N, WIDTH, generator=generator, dtype=torch.float64),
    }
    return TowerFeatures(torch.randn(N, WIDTH, generator=generator, dtype=torch.float64), (5, 8), outputs)


def pruned(name: str, seed: int, keep: int, **params: bool) -> PrunedTokens:
    return PRUNERS[name].bind(params).prune(PrunerInput(image_features(seed), keep))


def merged(vision: TowerFeatures, kept: list[int]) -> PrunedTokens:
    tokens = torch.tensor(kept).long()
    outputs, dropped = vision.outputs, dropped_of_released(tokens, N)
    return merge_neighbours(vision.hidden, outputs[SALIENCY_ONE_HEAD], outputs[KEYS], tokens, dropped)


def expected(vision: TowerFeatures, kept: list[int]) -> torch.Tensor:
    """Features term by term: repeats are neighbours, and for each repeat the first dropped patch is ignored."""
    attention, keys = vision.outputs[SALIENCY_ONE_HEAD], vision.outputs[KEYS]
    dropped = [i for i in range(N) if i not in kept]
    dropped = dropped[len(kept) - len(set(kept)) :]
    tokens = []
    for token, i in enumerate(kept):
        others = kept[:token] + kept[token + 1 :] + dropped
        others.sort(key=lambda j: (-float(torch.cosine_similarity(keys[i], keys[j], dim=0)), j))
        tokens.append(vision.hidden[i] + sum(attention[j] * vision.hidden[j] for j in others[:32]))
    tokens.append(sum((attention[j] * vision.hidden[j] for j in dropped), torch.zeros(WIDTH).double()))
    return torch.stack(tokens)


@pytest.mark.parametrize("kept", [[], [7], [30, 2, 11], list(range(0, N, 2)), [3, 9, 3], [5, 5, 8, 8, 20]])
def test_tokens_add_their_32_nearest_weighted_by_attention_and_the_last_sums_all_dropped(kept: list[int]) -> None:
    vision = image_features(1)
    result = merged(vision, kept)
    torch.testing.assert_close(result.features, expected(vision, kept))
    assert result.origins.tolist() == [*kept, -2]


def test_a_repeated_patch_belongs_to_its_first_token_and_one_dropped_patch_is_ignored() -> None:
    result = merged(image_features(1), [3, 9, 3])
    assert result.cluster_of_patch[3] == 0
    assert result.cluster_of_patch[0] == -1
    assert result.cluster_of_patch[1:3].tolist() == [3, 3]


def test_without_dropped_patches_there_is_no_sum() -> None:
    assert merged(image_features(1), list(range(N))).origins.tolist() == list(range(N))


@given(seed=st.integers(0, 1000), keep=st.integers(1, N - 1))
@settings(max_examples=40, deadline=None)
def test_kept_patches_come_by_decreasing_attention(seed: int, keep: int) -> None:
    attention = image_features(seed).outputs[SALIENCY_ONE_HEAD]
    best = attention.argsort(descending=True).tolist()
    assert pruned("prumerge", seed, keep).origins.tolist() == [*best[: keep - 1], -2]
    plus = pruned("prumerge_plus", seed, keep).origins.tolist()
    assert plus[: keep // 2] == best[: keep // 2]
    assert plus[keep // 2 : -1] == sorted(set(plus[keep // 2 : -1]))
    assert len(plus) == keep


def test_equals_go_to_the_smaller_index() -> None:
    assert most_attended(torch.tensor([1.0, 2.0, 1.0, 2.0, 0.0]), 3).tolist() == [1, 3, 0]


def test_outliers_lie_above_the_upper_fence() -> None:
    assert num_outliers(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])) == 0  # fence 4 + 1.5 * 2 = 7
    assert num_outliers(torch.tensor([1.0, 2.0, 3.0, 4.0, 7.0])) == 0
    assert num_outliers(torch.tensor([1.0, 2.0, 3.0, 4.0, 7.1])) == 1


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
@pytest.mark.parametrize("keep", [1, 20, N])
def test_an_adaptive_count_depends_on_the_image_alone(name: str, keep: int) -> None:
    vision = image_features(5)
    outliers = num_outliers(vision.outputs[SALIENCY_ONE_HEAD])
    assert 1 < outliers < N // 3
    result = pruned(name, 5, keep, adaptive=True)
    if name == "prumerge":
        assert len(result.features) == outliers + 1
    else:
        grid = set(range(0, N - 1, N // outliers // 3))
        top = set(result.origins[:outliers].tolist())
        assert len(result.features) == len(grid | top) + 1


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_an_image_without_outliers_is_still_encoded(name: str) -> None:
    vision = image_features(5)
    flat = TowerFeatures(
        vision.hidden,
        vision.grid,
        {**vision.outputs, SALIENCY_ONE_HEAD: torch.full((N,), 0.02, dtype=torch.float64)},
    )
    result = PRUNERS[name].bind({"adaptive": True}).prune(PrunerInput(flat, 9))
    assert result.features.isfinite().all()
    assert result.origins[0] == 0


def test_samples_are_those_of_the_definition() -> None:
    top = torch.tensor([4, 0])
    assert even_sample(top, 10, 4).tolist() == [4, 0, 2, 5, 7, 9]  # numbers 1, 3, 5, 7 of 1 2 3 5 6 7 8 9
    assert even_sample(top, 10, 0).tolist() == [4, 0]
    assert adaptive_sample(top, 12).tolist() == [4, 0, 2, 6, 8, 10]  # 12 / 2 = 6, floor(6 / 3) = 2; never the last
    assert adaptive_sample(torch.arange(9), 12).tolist() == [*range(9), 9, 10]  # more than a third: step 1
    assert released_sample(top, 12).tolist() == [4, 0, 3, 9]  # s = 6


@pytest.mark.parametrize(("keep", "num_tokens"), [(192, 193), (128, 129), (64, 65)])
def test_fidelity_gives_the_counts_of_the_released_code(keep: int, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = {SALIENCY_ONE_HEAD: torch.rand(576, generator=generator), KEYS: torch.rand(576, 3)}
    vision = TowerFeatures(torch.rand(576, 3), (24, 24), outputs)
    result = PRUNERS["prumerge_plus"].bind({"fidelity": True}).prune(PrunerInput(vision, keep))
    assert len(result.features) == num_tokens
    assert PRUNERS["prumerge_plus"].bind({"fidelity": True}).prune(PrunerInput(vision, 1)).origins.tolist() == [-2]
