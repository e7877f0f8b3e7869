"""Budgets, selection, merging and relevance scores."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners.fcma import fcma_relevance, mean_relevance
from encoder_service.pruners.merging import assign_to_nearest, merge_means
from encoder_service.pruners.selection import select_by_two_scores
from encoder_service.pruners.text_filter import words_by_eos_attention
from fovea.budget import Budget
from fovea.modeling.numerics import top_k

JOINT = 6


@pytest.mark.parametrize(
    ("num_tokens", "ratio", "keep"),
    [(576, 0.111, 64), (576, 1 / 9, 64), (144, 0.111, 16), (144, 1.0, 144), (144, 1e-9, 1), (5, 0.5, 3), (3, 0.5, 2)],
)
def test_a_ratio_is_rounded_half_up_to_at_least_one(num_tokens: int, ratio: float, keep: int) -> None:
    assert Budget.ratio(ratio).resolve(num_tokens) == keep


def test_a_count_is_limited_to_the_number_of_tokens() -> None:
    assert [Budget.count(k).resolve(10) for k in (1, 9, 10, 11, 10**9)] == [1, 9, 10, 10, 10]


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12).flatmap(
        lambda s: st.tuples(st.just(s), st.integers(0, len(s)))
    )
)
@settings(max_examples=60, deadline=None)
def test_top_k_gives_ties_to_the_smaller_index(case: tuple[list[int], int]) -> None:
    scores, k = case
    want = sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])
    assert top_k(torch.tensor(scores, dtype=torch.float32), k).tolist() == want


@given(seed=st.integers(0, 1000), k=st.integers(1, 15), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_two_scores_select_disjoint_sets_of_the_whole_budget(seed: int, k: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few values, so that there are many ties.
    first, second = (torch.randint(0, 4, (15,), generator=generator).float() for _ in range(2))
    by_first, by_second = select_by_two_scores(first, second, k, share)
    assert len(by_first) == math.floor(share * k + 0.5)
    assert len({*by_first.tolist(), *by_second.tolist()}) == len(by_first) + len(by_second) == k
    outside = set(range(15)) - set(by_first.tolist())
    best = sorted(outside, key=lambda i: (-second[i].item(), i))[: len(by_second)]
    assert sorted(best) == by_second.tolist()


def test_odd_budgets_give_the_first_score_one_more() -> None:
    by_task, by_saliency = select_by_two_scores(torch.rand(9), torch.rand(9), 5, 0.5)
    assert (len(by_task), len(by_saliency)) == (3, 2)


def test_dropped_tokens_join_the_kept_token_with_the_highest_cosine() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 100.0], [9.0, 1.0], [1.0, 20.0]])
    cluster_of_patch = assign_to_nearest(features, torch.tensor([0, 1]))
    assert cluster_of_patch.tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(
        merge_means(features, cluster_of_patch, torch.tensor([0, 1])), torch.tensor([[5.0, 0.5], [0.5, 60.0]])
    )


def test_of_equally_similar_kept_tokens_the_first_is_taken() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert assign_to_nearest(features, torch.tensor([1, 2])).tolist() == [0, 0, 1]


def test_means_of_half_precision_are_summed_in_float32() -> None:
    features = torch.full((4096, 1), 1.0, dtype=torch.float16)
    mean = merge_means(features, torch.zeros(4096, dtype=torch.int64), torch.tensor([0]))
    assert mean.dtype == torch.float32
    assert mean.item() == 1.0


def joint_space(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    patches, tokens = (torch.randn(n, JOINT, generator=generator, dtype=torch.float64) for n in (9, 5))
    cls, query = torch.randn(2, JOINT, generator=generator, dtype=torch.float64)
    return patches, cls, tokens, query


def test_fcma_is_the_formula_of_the_paper() -> None:
    patches, cls, tokens, query = joint_space(0)
    lam, n, t = 0.7, len(patches), len(tokens)
    m = [[float(p @ w) for w in tokens] for p in patches]
    alpha, beta = [float(p @ query) for p in patches], [float(w @ cls) for w in tokens]
    want = [0.0] * n
    for i, j in itertools.product(range(n), range(t)):
        over_j = sum(math.exp(lam * beta[k] * m[i][k]) for k in range(t))
        over_i = sum(math.exp(lam * alpha[k] * m[k][j]) for k in range(n))
        mv = alpha[i] / n * math.exp(lam * beta[j] * m[i][j]) / over_j
        mt = beta[j] / t * math.exp(lam * alpha[i] * m[i][j]) / over_i
        want[i] += (mv + mt) * m[i][j] / t
    got = fcma_relevance(patches, cls, tokens, query, temperature=lam)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


def test_fcma_with_lambda_zero_has_a_closed_form() -> None:
    patches, cls, tokens, query = joint_space(1)
    weight = (patches @ query)[:, None] + (tokens @ cls)[None]
    want = (weight * (patches @ tokens.T)).sum(1) / (len(patches) * len(tokens) ** 2)
    torch.testing.assert_close(fcma_relevance(patches, cls, tokens, query, temperature=0.0), want)


def test_clamping_removes_negative_weights() -> None:
    patches, _, tokens, _ = joint_space(2)
    relevance = fcma_relevance(patches, torch.zeros(JOINT).double(), tokens, -1000 * patches.sum(0), clamp_min=0.0)
    negative = (patches @ (-patches.sum(0))) < 0
    assert negative.any()
    assert (relevance[negative] == 0).all()


def test_shifted_cosines_find_the_relevant_patch_where_every_cosine_is_negative() -> None:
    cosines = torch.tensor([-0.9, -0.8, -0.9, -0.1, -0.7, -0.9], dtype=torch.float64)  # patch 3 has the highest
    patches = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
    word = torch.tensor([1.0, 0.0], dtype=torch.float64)
    cls = torch.tensor([-1.0, 0.0], dtype=torch.float64)
    assert fcma_relevance(patches, cls, word.expand(3, 2), word, shifted=True).argmax() == 3
    assert fcma_relevance(patches, cls, word.expand(3, 2), word).argmin() == 3


def test_without_fcma_relevance_is_the_mean_similarity() -> None:
    patches, _, tokens, _ = joint_space(3)
    torch.testing.assert_close(mean_relevance(patches, tokens), (patches @ tokens.mean(0)))


def test_the_text_filter_keeps_words_above_the_mean_and_32_at_most() -> None:
    attention = torch.tensor([9.0, 1.0, 3.0, 2.0, 4.0, 9.0])
    is_word = torch.tensor([False, True, True, True, True, False])
    assert words_by_eos_attention(attention, is_word).nonzero().flatten().tolist() == [2, 4]
    many = torch.cat([torch.zeros(60), torch.arange(1.0, 61.0)])
    chosen = words_by_eos_attention(many, torch.ones(120, dtype=torch.bool))
    assert chosen.nonzero().flatten().tolist() == list(range(88, 120))
    alike = torch.full((7,), 0.1)
    assert words_by_eos_attention(alike, torch.ones(7, dtype=torch.bool)).any()
