"""VisionZip: CLS, dominant patches and context tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunedTokens, PrunerInput, TowerFeatures
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, MEAN_KEYS_SECOND_LAST, SALIENCY_SECOND_LAST
from encoder_service.pruners.visionzip import zip_tokens

N, WIDTH = 24, 5


def image_features(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, CLS, attention with many ties, keys."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randint(0, 4, (N,), generator=generator).float()
    hidden, keys = (torch.randn(N, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    return hidden, torch.randn(WIDTH, generator=generator, dtype=torch.float64), attention, keys


def zipped(seed: int, num_dominant: int, num_context: int) -> PrunedTokens:
    return zip_tokens(*image_features(seed), num_dominant=num_dominant, num_context=num_context)


budgets = st.integers(0, N).flatmap(lambda context: st.tuples(st.integers(1, N + 1 - context), st.just(context)))


@given(seed=st.integers(0, 1000), budget=budgets)
@settings(max_examples=60, deadline=None)
def test_cls_then_dominant_patches_then_context_tokens_each_in_raster_order(seed: int, budget: tuple[int, int]) -> None:
    num_dominant, num_context = budget
    hidden, cls, attention, _ = image_features(seed)
    result = zipped(seed, *budget)
    kept = result.origins.tolist()
    dominant, targets = kept[1:num_dominant], kept[num_dominant:]
    assert kept[0] == -1
    assert torch.equal(result.features[0], cls)
    assert dominant == sorted(sorted(range(N), key=lambda i: (-attention[i].item(), i))[: num_dominant - 1])
    assert torch.equal(result.features[1:num_dominant], hidden[dominant])
    rest = [i for i in range(N) if i not in dominant]
    assert targets == [rest[i * max(1, len(rest) // max(num_context, 1))] for i in range(num_context)]
    if num_context:
        assert (result.cluster_of_patch >= 0).all()


@given(seed=st.integers(0, 1000), budget=budgets)
@settings(max_examples=60, deadline=None)
def test_a_context_token_is_its_target_plus_the_mean_of_those_with_similar_keys(
    seed: int, budget: tuple[int, int]
) -> None:
    hidden, _, _, keys = image_features(seed)
    result = zipped(seed, *budget)
    targets = result.origins[budget[0] :].tolist()
    for i in set(range(N)) - set(result.origins.tolist()):
        if targets:
            similarities = [float(torch.cosine_similarity(keys[i], keys[j], dim=0)) for j in targets]
            assert result.cluster_of_patch[i] == budget[0] + similarities.index(max(similarities))
    for token, target in enumerate(targets, start=budget[0]):
        members = [i for i in range(N) if result.cluster_of_patch[i] == token and i != target]
        want = hidden[target] + (hidden[members].mean(0) if members else 0)
        torch.testing.assert_close(result.features[token], want)


@pytest.mark.parametrize(
    ("keep", "num_context"), [(192, 30), (128, 20), (64, 10), (32, 5), (4, 1), (3, 0), (1, 0), (575, 90)]
)
def test_the_budget_is_split_as_in_the_paper(keep: int, num_context: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(576, WIDTH, generator=generator)
    outputs = {
        CLS_HIDDEN: torch.randn(WIDTH, generator=generator),
        SALIENCY_SECOND_LAST: torch.rand(576, generator=generator),
        MEAN_KEYS_SECOND_LAST: torch.randn(576, 4, generator=generator),
    }
    inputs = PrunerInput(TowerFeatures(hidden, (24, 24), outputs), keep)
    result = PRUNERS["visionzip"].bind({}).prune(inputs)
    assert len(result.origins) == keep
    num_merged = 576 - (keep - num_context - 1) if num_context else 0  # all that is not dominant
    assert int((result.cluster_of_patch >= keep - num_context).sum()) == num_merged


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_share_keeps_cls_and_the_budget(share: float) -> None:
    hidden, cls, attention, keys = image_features(3)
    outputs = {CLS_HIDDEN: cls, SALIENCY_SECOND_LAST: attention, MEAN_KEYS_SECOND_LAST: keys}
    for keep in range(1, N):
        inputs = PrunerInput(TowerFeatures(hidden, (4, 6), outputs), keep)
        result = PRUNERS["visionzip"].bind({"context_share": share}).prune(inputs)
        assert len(result.features) == keep
        assert result.origins[0] == -1
