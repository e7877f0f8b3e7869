"""The `cdpruner` pruner and its search, against plain loops over determinants."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunedTokens, PrunerInput, TextFeatures, TextSpace, TowerFeatures
from encoder_service.pruners.determinant import greedy_determinant
from encoder_service.pruners.tower_outputs import JOINT_FEATURES

GRID, N, WIDTH, JOINT, TOKENS = (3, 4), 12, 16, 6, 5
Floats = npt.NDArray[np.float64]


def cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def plain_relevance(joint: Floats, texts: Floats, sign: int) -> list[float]:
    """r_i of the method: mean signed cosine with the texts, from (almost) 0 to 1."""
    means = [sum(sign * cosine(patch, text) for text in texts) / len(texts) for patch in joint]
    return [(s - min(means) + 1e-6) / (max(means) - min(means)) for s in means]


def plain_kernel(hidden: Floats, relevance: list[float], weight: float) -> Floats:
    kernel = np.zeros((len(hidden), len(hidden)))
    for i, first in enumerate(hidden):
        for j, second in enumerate(hidden):
            similarity = 1.0 if i == j else cosine(first, second)  # exactly, so that ties are ties
            kernel[i, j] = (1 - weight) * similarity + weight * relevance[i] * similarity * relevance[j]
    return kernel


def plain_greedy(kernel: Floats, k: int) -> list[int]:
    """In each step the candidate with the largest log determinant of the chosen kernel."""
    chosen: list[int] = []
    for _ in range(k):
        best, most = -1, -math.inf
        for j in range(len(kernel)):
            if j not in chosen:
                some = [*chosen, j]
                value = np.linalg.slogdet(kernel[np.ix_(some, some)])[1]
                if value > most:
                    best, most = j, value
        chosen.append(best)
    return chosen


def features(seed: int, *, width: int = WIDTH) -> TowerFeatures:
    """Random features of one image, in double precision, so that rounding chooses nothing."""
    generator = torch.Generator().manual_seed(seed)
    joint = torch.randn(1 + N, JOINT, generator=generator, dtype=torch.float64)
    hidden = torch.randn(N, width, generator=generator, dtype=torch.float64)
    return TowerFeatures(hidden, GRID, {JOINT_FEATURES: joint})


def question(seed: int, *, num_windows: int = 1, space: TextSpace = TextSpace.CONTRASTIVE) -> TextFeatures:
    generator = torch.Generator().manual_seed(seed + 1)
    tokens = torch.randn(TOKENS, JOINT, generator=generator, dtype=torch.float64)
    eos = torch.randn(num_windows, JOINT, generator=generator, dtype=torch.float64)
    return TextFeatures(tokens, eos, torch.ones(TOKENS, dtype=torch.bool), space=space)


def pruned(vision: TowerFeatures, keep: int, text: TextFeatures | None = None, **params: Any) -> PrunedTokens:
    return PRUNERS["cdpruner"].bind(params).prune(PrunerInput(vision, keep, text))


@given(
    seed=st.integers(0, 2**40),
    keep=st.integers(1, N),
    weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    space=st.sampled_from(TextSpace),
    num_windows=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_the_patches_of_the_largest_determinant_are_kept_in_raster_order(
    seed: int, keep: int, weight: float, space: TextSpace, num_windows: int
) -> None:
    """CLIP's route reads the windows' EOS, negated; the route of input embeddings all tokens, not negated."""
    vision, text = features(seed), question(seed, num_windows=num_windows, space=space)
    texts, sign = (text.eos, -1) if space is TextSpace.CONTRASTIVE else (text.tokens, 1)
    r = plain_relevance(vision.outputs[JOINT_FEATURES][1:].numpy(), texts.numpy(), sign)
    kernel = plain_kernel(vision.hidden.numpy(), r, weight)
    got = pruned(vision, keep, text, relevance_weight=weight)
    assert got.origins.tolist() == sorted(plain_greedy(kernel, keep))
    assert torch.equal(got.features, vision.hidden[got.origins])
    assert got.task_map is not None
    order = np.argsort(got.task_map.numpy())
    assert order.tolist() == np.argsort(r).tolist()


@pytest.mark.parametrize(
    ("space", "auto"), [(TextSpace.CONTRASTIVE, "negative"), (TextSpace.INPUT_EMBEDDINGS, "positive")]
)
def test_the_sign_of_relevance_follows_the_space_of_the_question(space: TextSpace, auto: str) -> None:
    vision, text = features(1), question(1, space=space)
    maps = {sign: pruned(vision, 3, text, relevance_sign=sign).task_map for sign in ("auto", "negative", "positive")}
    assert maps["negative"] is not None
    assert maps["auto"] is not None
    assert torch.equal(maps["auto"], maps[auto])  # type: ignore[arg-type]
    assert torch.equal(maps["negative"], -maps["positive"])  # type: ignore[operator]


def test_without_a_question_or_weight_the_most_different_patches_are_kept() -> None:
    vision = features(2)
    by_diversity = plain_greedy(plain_kernel(vision.hidden.numpy(), [1.0] * N, 1.0), 5)
    for got in (pruned(vision, 5), pruned(vision, 5, question(2), relevance_weight=0)):
        assert got.origins.tolist() == sorted(by_diversity)
    assert pruned(vision, 5).task_map is None


@given(seed=st.integers(0, 2**40), keep=st.integers(1, N), width=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_once_the_features_are_spanned_the_most_relevant_patches_follow(seed: int, keep: int, width: int) -> None:
    """A kernel of rank D has no set of more than D patches with a determinant above 0."""
    vision, text = features(seed, width=width), question(seed)
    r = plain_relevance(vision.outputs[JOINT_FEATURES][1:].numpy(), text.eos.numpy(), -1)
    chosen = plain_greedy(plain_kernel(vision.hidden.numpy(), r, 1.0), min(keep, width))
    others = sorted(set(range(N)) - set(chosen), key=lambda i: -r[i])
    assert pruned(vision, keep, text).origins.tolist() == sorted([*chosen, *others[: keep - len(chosen)]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=st.integers(0, 2**20), kinds=st.integers(1, 5), data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_patch_is_kept_twice_while_there_are_others(
    dtype: torch.dtype, seed: int, kinds: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(kinds, (N,), generator=generator)
    vectors = torch.randn(kinds, WIDTH, generator=generator, dtype=dtype)[kind]
    k = data.draw(st.integers(1, N))
    chosen = greedy_determinant(vectors, torch.ones(N), k).tolist()
    assert len(set(chosen)) == k
    present = len(set(kind.tolist()))
    assert len({int(kind[i]) for i in chosen}) == min(k, present)
    for i in chosen[:present]:
        assert i == kind.tolist().index(int(kind[i]))  # the first of equal patches


@given(seed=st.integers(0, 2**40), k=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_greedy_volume_is_near_the_largest(seed: int, k: int) -> None:
    """At least 1 / k! of the largest volume of k vectors (Civril & Magdon-Ismail 2009)."""
    vectors = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def volume(some: Any) -> float:
        return math.sqrt(max(0.0, float(torch.linalg.det(vectors[list(some)] @ vectors[list(some)].T))))

    best = max(volume(some) for some in combinations(range(8), k))
    assert volume(greedy_determinant(vectors, vectors.norm(dim=-1), k).tolist()) >= best / math.factorial(k) * (
        1 - 1e-9
    )


def test_equal_gains_go_to_the_smaller_index() -> None:
    equal = torch.ones(5)
    assert greedy_determinant(torch.eye(5), equal, 3).tolist() == [0, 1, 2]
    assert greedy_determinant(torch.ones(5, 3), equal, 4).tolist() == [0, 1, 2, 3]
    assert greedy_determinant(torch.zeros(5, 3), equal, 2).tolist() == [0, 1]


def test_rounding_does_not_decide_between_patches_of_equal_quality() -> None:
    """Unit vectors in floating point are not quite of length 1."""
    vectors = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(3))
    assert greedy_determinant(vectors, torch.ones(200), 1).tolist() == [0]


def test_a_patch_of_low_quality_is_chosen_for_what_the_others_lack() -> None:
    """Its gain is far below the rounding error of the others, whose features are spanned."""
    vectors, quality = torch.tensor([[1.0, 0.1], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([1.0, 1.0, 1e-5])
    assert greedy_determinant(vectors, quality, 2).tolist() == [0, 2]
