"""Sampling: greedy, temperature, nucleus, seeds, and validation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fovea.errors import InvalidRequest
from llm_service.sampling import (
    SamplingParams,
    SamplingTensors,
    TokenSampling,
    make_generator,
    sample,
    sampling_weights,
)

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draws(params, count=4000, logits=LOGITS):
    """Tokens of one sequence with the same logits at each step."""
    random = torch.rand(count, dtype=torch.float64, generator=make_generator(params))
    return sample(logits.expand(count, -1), on_cpu(*[params] * count, size=len(logits)), random).tolist()


def on_cpu(*params, size):
    return SamplingTensors.of(params, size, torch.device("cpu"))


def weights_of(logits, params):
    return sampling_weights(logits[None], on_cpu(params, size=len(logits)))[0]


def test_frequencies_follow_the_probabilities():
    counts = torch.bincount(torch.tensor(draws(SamplingParams(1, temperature=1.0, seed=1))), minlength=4)
    assert torch.allclose(counts / 4000, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03)


def test_temperature_sharpens():
    counts = torch.bincount(torch.tensor(draws(SamplingParams(1, temperature=0.5, seed=1))), minlength=4)
    weights = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert torch.allclose(counts / 4000, weights / weights.sum(), atol=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, {0}), (0.6, {0, 1}), (0.81, {0, 1, 2}), (1e-9, {0})])
def test_nucleus_keeps_the_smallest_set_that_reaches_top_p(top_p, kept):
    assert set(draws(SamplingParams(1, temperature=1.0, top_p=top_p, seed=1), 500)) == kept


@pytest.mark.parametrize(("top_k", "kept"), [(1, {0}), (2, {0, 1}), (4, {0, 1, 2, 3}), (0, {0, 1, 2, 3})])
def test_only_the_top_k_are_sampled(top_k, kept):
    assert set(draws(SamplingParams(1, temperature=1.0, top_k=top_k, seed=1), 500)) == kept


@pytest.mark.parametrize(("min_p", "kept"), [(1.0, {0}), (0.59, {0, 1}), (0.29, {0, 1, 2}), (0.0, {0, 1, 2, 3})])
def test_tokens_below_a_share_of_the_most_probable_one_are_not_sampled(min_p, kept):
    assert set(draws(SamplingParams(1, temperature=1.0, min_p=min_p, seed=1), 500)) == kept


def warped(logits, params):
    """Distribution of transformers' own warpers, in vLLM's order."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    return warpers(torch.tensor([[0]]), logits[None].double())[0].softmax(-1)


@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.1, 2.0),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
    top_k=st.integers(0, 60),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
)
def test_the_filters_together_are_those_of_transformers(seed, temperature, min_p, top_k, top_p):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3
    params = TokenSampling(temperature=temperature, min_p=min_p, top_k=top_k, top_p=top_p)
    weights = weights_of(logits, params)
    assert torch.allclose(weights / weights.sum(), warped(logits, params), atol=1e-12)


@given(seed=st.integers(0, 10**6), count=st.integers(1, 5))
def test_a_row_does_not_depend_on_the_parameters_of_the_others(seed, count):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 30, generator=random) * 3
    params = [
        TokenSampling(
            temperature=0.1 + float(torch.rand((), generator=random)),
            min_p=[0.0, 0.2][int(torch.randint(2, (), generator=random))],
            top_k=[0, 3, 40][int(torch.randint(3, (), generator=random))],
            top_p=[1.0, 0.7][int(torch.randint(2, (), generator=random))],
        )
        for _ in range(count)
    ]
    together = sampling_weights(logits, on_cpu(*params, size=30))
    for row, row_logits, one in zip(together, logits, params, strict=True):
        assert torch.equal(row, weights_of(row_logits, one))


def test_a_top_k_beyond_the_vocabulary_keeps_all():
    assert torch.equal(
        weights_of(LOGITS, TokenSampling(temperature=1, top_k=2**32 - 1)),
        weights_of(LOGITS, TokenSampling(temperature=1)),
    )


def test_a_tiny_temperature_is_greedy_and_not_nan():
    assert set(draws(SamplingParams(1, temperature=1e-300, seed=1), 5)) == {0}


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_a_seed_repeats_itself(seed):
    params = SamplingParams(1, temperature=1.0, seed=seed)
    assert draws(params, 50) == draws(params, 50)


def test_without_a_seed_answers_differ():
    params = SamplingParams(1, temperature=1.0)
    assert draws(params, 50) != draws(params, 50)


def test_rounding_errors_of_another_batch_change_nothing():
    params = SamplingParams(1, temperature=1.0, top_p=0.9, seed=3)
    tied = torch.zeros(50)
    nudged = tied + 1e-7 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    params_all = SamplingParams(1, temperature=1.0, seed=3)
    assert draws(params_all, 200, tied) == draws(params_all, 200, nudged)
    assert len(set(draws(params, 500, nudged))) == 45


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", 10.1),
        ("repetition_penalty", math.nan),
        ("repetition_penalty", math.inf),
        ("presence_penalty", -2.1),
        ("presence_penalty", 2.1),
        ("presence_penalty", math.nan),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", 2.1),
        ("frequency_penalty", math.nan),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", ("",)),
        ("stop", ("x" * 257,)),
        ("stop", tuple("abcdefghi")),
    ],
)
def test_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{"max_tokens": 1, field: value})
    assert caught.value.param == field
    assert field.removeprefix("max_") in caught.value.message
