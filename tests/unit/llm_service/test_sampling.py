"""Sampling: greedy, temperature, nucleus, seeds, and validation."""

from __future__ import annotations

import math

import pytest
import torch

from fovea.errors import InvalidRequest
from llm_service.sampling import SamplingParams, make_generator, sample

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draws(params, count=4000, logits=LOGITS):
    generator = make_generator(params)
    return [sample(logits, params, generator) for _ in range(count)]


def test_greedy_takes_the_largest():
    assert set(draws(SamplingParams(max_tokens=1), 5, LOGITS.flip(0))) == {3}


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
