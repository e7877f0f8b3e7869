"""Events that a sequence emits for the ids of the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from benchmarks.checkpoints.tiny.llava_language import make_tokenizer
from llm_service.engine.base import Delta, Done, GenerationRequest
from llm_service.engine.sequence import Sequence
from llm_service.engine.token_logprobs import ChosenLogprobs
from llm_service.prompts import Prompt
from llm_service.sampling import SamplingParams

EOS = 2
TOKENIZER = make_tokenizer()


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


STOPS = st.lists(st.text(st.sampled_from("ab🙂é "), min_size=1, max_size=4), max_size=3)


@given(text=st.text(st.sampled_from("ab🙂é "), max_size=20), stop=STOPS, ends=st.booleans(), data=st.data())
@settings(max_examples=300, deadline=None)
def test_entries_are_those_of_the_tokens_of_the_text_and_never_ahead_of_it(
    text: str, stop: list[str], ends: bool, data: st.DataObject
) -> None:
    token_ids = ids(TOKENIZER, text)[: None if ends else -1]
    cut = data.draw(st.integers(0, len(token_ids)))
    deltas, done = asyncio.run(deltas_of(TOKENIZER, token_ids[:cut], stop))
    emitted, entries = "", b""
    for delta in deltas:
        previous = emitted.encode()
        emitted, entries = emitted + delta.text, entries + b"".join(one.token for one in delta.logprobs)
        before_last = entries[: len(entries) - len(delta.logprobs[-1].token)] if delta.logprobs else previous
        if "\ufffd" not in emitted:
            assert entries.startswith(emitted.encode())
            assert len(before_last) <= len(emitted.encode())  # no entry of a token that begins behind the text
    got = [one.token_id for delta in deltas for one in delta.logprobs]
    assert got == done.token_ids[: len(got)]
    if not stop:
        assert got == [token_id for token_id in done.token_ids if token_id != EOS]


async def deltas_of(tokenizer: Tokenizer, token_ids: list[int], stop: list[str]) -> tuple[list[Delta], Done]:
    max_tokens = max(len(token_ids), 1)
    request = GenerationRequest(
        Prompt(np.array([1]), ()), SamplingParams(max_tokens=max_tokens, stop=tuple(stop)), time.monotonic() + 60
    )
    sequence = Sequence(request, tokenizer, frozenset([EOS]), max_model_len=128)
    for token_id in token_ids or [EOS]:
        if not sequence.finished:
            sequence.append_token(token_id, ChosenLogprobs(-1.0, []))
    *deltas, done = [event async for event in sequence]
    assert isinstance(done, Done)
    return [delta for delta in deltas if isinstance(delta, Delta)], done


async def test_tokens_without_text_are_reported_before_the_next_text(tokenizer: Tokenizer) -> None:
    request = GenerationRequest(
        Prompt(np.array([1]), ()), SamplingParams(max_tokens=5, stop=("at",), ignore_eos=True), time.monotonic() + 60
    )
    sequence = Sequence(request, tokenizer, frozenset([EOS]), max_model_len=128)
    a, b = ids(tokenizer, "a")[0], ids(tokenizer, "b")[0]
    for token_id in (EOS, EOS, a, EOS, b):  # "a" may begin the stop string, and so may what follows the end token
        sequence.append_token(token_id, ChosenLogprobs(-1.0, []))
    *deltas, _ = [event async for event in sequence]
    assert [(delta.text, [one.token_id for one in delta.logprobs]) for delta in deltas if isinstance(delta, Delta)] == [
        ("", [EOS]),
        ("", [EOS]),
        ("ab", [a, EOS, b]),
    ]


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
