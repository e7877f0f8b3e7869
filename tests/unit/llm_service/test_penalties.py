"""Penalties: the formulas of vLLM and of transformers, on random logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from llm_service.penalties import SeenIds, has_penalties, penalize
from llm_service.sampling import TokenSampling

VOCAB_SIZE = 24

ids = st.integers(0, VOCAB_SIZE - 1)
amounts = st.floats(-2, 2, width=16)


def random_logits(seed):
    return torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 4


def penalized(logits, params, prompt_ids, token_ids):
    """Logits of one sequence, as the second of two rows; three entries of its ids are neither prompt nor answer."""
    ids = torch.tensor([*prompt_ids, *token_ids, 0, 1, 2])
    position = torch.arange(len(ids))
    is_prompt = position < len(prompt_ids)
    is_answer = (position < len(ids) - 3) & ~is_prompt
    none = torch.zeros_like(is_prompt)
    seen = SeenIds(ids.expand(2, -1), torch.stack([none, is_prompt]), torch.stack([none, is_answer]))
    amounts = [params.repetition_penalty, params.frequency_penalty, params.presence_penalty]
    other, row = penalize(logits.expand(2, -1), seen, *torch.tensor([amounts, amounts]).T)
    assert torch.equal(other, logits)
    return row


def vllm_formula(logits, prompt_ids, token_ids, repetition, frequency, presence):
    """`vllm/model_executor/layers/utils.py::apply_penalties` of vLLM 0.32, in numpy."""
    logits = logits.numpy().copy()
    counts = np.bincount(token_ids, minlength=VOCAB_SIZE) if token_ids else np.zeros(VOCAB_SIZE)
    seen = counts > 0
    seen[prompt_ids] = True
    logits = np.where(seen, np.where(logits > 0, logits / repetition, logits * repetition), logits)
    logits = logits - frequency * counts
    return logits - presence * (counts > 0)


@given(
    seed=st.integers(0, 10**6),
    prompt_ids=st.lists(ids, min_size=1, max_size=30),
    token_ids=st.lists(ids, max_size=30),
    repetition=st.floats(0.0625, 10, width=16),
    frequency=amounts,
    presence=amounts,
)
def test_all_penalties_are_those_of_vllm(seed, prompt_ids, token_ids, repetition, frequency, presence):
    logits = random_logits(seed)
    params = TokenSampling(
        repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence, temperature=1
    )
    expected = vllm_formula(logits, prompt_ids, token_ids, repetition, frequency, presence)
    np.testing.assert_allclose(penalized(logits, params, prompt_ids, token_ids), expected, rtol=1e-5, atol=1e-5)


@given(
    seed=st.integers(0, 10**6),
    prompt_ids=st.lists(ids, min_size=1, max_size=30),
    token_ids=st.lists(ids, max_size=30),
    penalty=st.sampled_from([0.5, 1.05, 1.3, 10.0]),
)
def test_the_repetition_penalty_is_exactly_that_of_transformers(seed, prompt_ids, token_ids, penalty):
    logits = random_logits(seed)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt_ids + token_ids]), logits[None])[0]
    actual = penalized(logits, TokenSampling(repetition_penalty=penalty), prompt_ids, token_ids)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("field", ["frequency_penalty", "presence_penalty"])
def test_ids_of_the_prompt_alone_have_only_the_repetition_penalty(field):
    logits = random_logits(0)
    changed = penalized(logits, TokenSampling(**{field: 1.5}), [3, 4], [5, 5]) != logits
    assert changed.nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("field", ["repetition_penalty", "frequency_penalty", "presence_penalty"])
def test_each_of_the_three_is_a_penalty_and_no_other_parameter_is(field):
    assert has_penalties(TokenSampling(**{field: 1.5}))
    assert not has_penalties(TokenSampling(temperature=0.7, top_k=5, min_p=0.1))
