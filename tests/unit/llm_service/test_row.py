"""What a reader of a row gets of the ids that the model makes."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import pytest
from tokenizers import Tokenizer

from llm_service.engines.base import Delta, Done, GenerationRequest
from llm_service.engines.row import Row
from llm_service.prompts import Prompt
from llm_service.sampling import SamplingParams

EOS = 2


async def read(
    tokenizer: Tokenizer, token_ids: Iterable[int], *stop: str, trims_answer: bool = True
) -> tuple[str, Done]:
    request = GenerationRequest(
        Prompt(np.array([1]), ()), SamplingParams(max_tokens=64, stop=stop), deadline=time.monotonic() + 60
    )
    row = Row(request, tokenizer, frozenset([EOS]), max_model_len=128, trims_answer=trims_answer)
    for token_id in token_ids:
        if not row.ended:
            row.accept(token_id)
    *deltas, done = [event async for event in row]
    assert isinstance(done, Done)
    assert all(isinstance(delta, Delta) and delta.text for delta in deltas)
    return "".join(delta.text for delta in deltas), done


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return [*tokenizer.encode(text, add_special_tokens=False).ids, EOS]


@pytest.mark.parametrize("said", [" red star", "  \n red star", "red star"])
async def test_an_answer_begins_with_its_first_word_where_the_prompt_brings_the_space(
    tokenizer: Tokenizer, said: str
) -> None:
    text, done = await read(tokenizer, ids(tokenizer, said))
    assert text == "red star"
    assert done.finish_reason == "stop"


@pytest.mark.parametrize("said", [" red star", "  \n red star", "red star", " \t", "\n\n```\n  red\n"])
async def test_an_answer_is_what_the_model_wrote_where_it_does_not(tokenizer: Tokenizer, said: str) -> None:
    text, done = await read(tokenizer, ids(tokenizer, said), trims_answer=False)
    assert text == tokenizer.decode(done.token_ids, skip_special_tokens=True) == said


async def test_a_stop_string_may_be_the_white_space_that_an_answer_begins_with(tokenizer: Tokenizer) -> None:
    text, done = await read(tokenizer, ids(tokenizer, "\nred"), "\n", trims_answer=False)
    assert (text, done.finish_reason) == ("", "stop")


async def test_a_stop_string_is_looked_for_in_the_answer_not_before_it(tokenizer: Tokenizer) -> None:
    text, done = await read(tokenizer, ids(tokenizer, " red star"), " ")
    assert text == "red"
    assert done.finish_reason == "stop"


async def test_an_answer_of_nothing_but_blanks_is_empty(tokenizer: Tokenizer) -> None:
    text, done = await read(tokenizer, ids(tokenizer, "   "))
    assert text == ""
    assert done.finish_reason == "stop"


async def test_whoever_works_on_a_row_learns_that_it_is_cancelled_early_or_late(tokenizer: Tokenizer) -> None:
    request = GenerationRequest(Prompt(np.array([1]), ()), SamplingParams(max_tokens=4), deadline=time.monotonic() + 60)
    for cancelled_first in (True, False):
        row, heard = Row(request, tokenizer, frozenset([EOS]), max_model_len=128), []
        steps = [row.cancel, lambda row=row, heard=heard: row.when_cancelled(lambda: heard.append(row))]
        for step in steps if cancelled_first else reversed(steps):
            step()
        assert heard == [row]
