"""Events that a sequence emits for the ids of the model."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import pytest
from tokenizers import Tokenizer

from llm_service.engine.base import Delta, Done, GenerationRequest
from llm_service.engine.sequence import Sequence
from llm_service.prompts import Prompt
from llm_service.sampling import SamplingParams

EOS = 2


async def read(
    tokenizer: Tokenizer, token_ids: Iterable[int], *stop: str, trims_answer: bool = True
) -> tuple[str, Done]:
    request = GenerationRequest(
        Prompt(np.array([1]), ()), SamplingParams(max_tokens=64, stop=stop), deadline=time.monotonic() + 60
    )
    sequence = Sequence(request, tokenizer, frozenset([EOS]), max_model_len=128, trims_answer=trims_answer)
    for token_id in token_ids:
        if not sequence.finished:
            sequence.append_token(token_id)
    *deltas, done = [event async for event in sequence]
    assert isinstance(done, Done)
    assert all(isinstance(delta, Delta) and delta.text for delta in deltas)
    return "".join(delta.text for delta in deltas), done


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return [*tokenizer.encode(text, add_special_tokens=False).ids, EOS]


@pytest.mark.parametrize("generated", [" red star", "  \n red star", "red star"])
async def test_white_space_before_the_first_word_is_stripped_if_the_family_says_so(
    tokenizer: Tokenizer, generated: str
) -> None:
    text, done = await read(tokenizer, ids(tokenizer, generated))
    assert text == "red star"
    assert done.finish_reason == "stop"


@pytest.mark.parametrize("generated", [" red star", "  \n red star", "red star", " \t", "\n\n```\n  red\n"])
async def test_white_space_is_kept_for_other_families(tokenizer: Tokenizer, generated: str) -> None:
    text, done = await read(tokenizer, ids(tokenizer, generated), trims_answer=False)
    assert text == tokenizer.decode(done.token_ids, skip_special_tokens=True) == generated


async def test_white_space_at_the_start_can_be_a_stop_string(tokenizer: Tokenizer) -> None:
    text, done = await read(tokenizer, ids(tokenizer, "\nred"), "\n", trims_answer=False)
    assert (text, done.finish_reason) == ("", "stop")


async def test_a_stop_string_does_not_match_stripped_white_space(tokenizer: Tokenizer) -> None:
    text, done = await read(tokenizer, ids(tokenizer, " red star"), " ")
    assert text == "red"
    assert done.finish_reason == "stop"


async def test_an_answer_of_blanks_is_empty(tokenizer: Tokenizer) -> None:
    text, done = await read(tokenizer, ids(tokenizer, "   "))
    assert text == ""
    assert done.finish_reason == "stop"


async def test_the_abort_callback_is_called_whether_it_is_set_before_or_after_the_abort(tokenizer: Tokenizer) -> None:
    request = GenerationRequest(Prompt(np.array([1]), ()), SamplingParams(max_tokens=4), deadline=time.monotonic() + 60)
    for abort_first in (True, False):
        sequence, calls = Sequence(request, tokenizer, frozenset([EOS]), max_model_len=128), []
        steps = [
            sequence.abort,
            lambda sequence=sequence, calls=calls: sequence.on_abort(lambda: calls.append(sequence)),
        ]
        for step in steps if abort_first else reversed(steps):
            step()
        assert calls == [sequence]
