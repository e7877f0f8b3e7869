"""Long prompts in chunks: answers, the steps of others between the chunks, aborts and failures."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from transformers import MistralConfig

from benchmarks.checkpoints.tiny.llava_language import make_llava, save
from fovea.errors import InternalError
from llm_service.engine.base import CrossAttention
from llm_service.engine.prefill_queue import PrefillQueue
from tests.unit.llm_service.test_engine import BOS, IMAGE, alone, failures, mixed, read, request, run_dry

LONG = (BOS, *[60, 61, 62, 63, 64, 65, 66] * 10)


@pytest.fixture
def chunking(loaded):
    return functools.partial(loaded, max_prefill_tokens=16)


def decoding(engine):
    """An answer that decodes as long as the test runs."""
    generation = engine.submit(request(BOS, 90, max_tokens=100))
    engine.step()
    return generation


def work(queue, max_tokens):
    """Prompts and chunks of each step until nothing is left."""
    steps = []
    while queue:
        step = queue.next_work(max_tokens)
        steps.append(step.whole if step.chunk is None else (step.chunk.prompt, step.chunk.start, step.chunk.end))
    return steps


def queue_of(**lengths):
    queue = PrefillQueue()
    for prompt, length in lengths.items():
        queue.push(prompt, length)
    return queue


def test_prompts_share_a_step_in_order_and_long_ones_run_alone_in_equal_chunks():
    assert work(queue_of(a=4, b=6, c=1), 10) == [["a", "b"], ["c"]]
    assert work(queue_of(a=4, b=25, c=3), 10) == [["a"], ("b", 0, 9), ("b", 9, 17), ("b", 17, 25), ["c"]]
    assert work(queue_of(a=10, b=10), 10) == [["a"], ["b"]]
    assert work(queue_of(a=400, b=25, c=3), None) == [["a", "b", "c"]]


def test_the_rest_of_a_chunked_prompt_is_run_at_once_where_there_is_no_limit():
    queue = queue_of(a=25, b=3)
    queue.next_work(10)
    assert work(queue, None) == [("a", 9, 25), ["b"]]


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
async def test_chunks_change_no_answer(loaded, chunking, attn_implementation):
    expected = await alone(loaded, request(*LONG, max_tokens=12))
    engine = chunking(attn_implementation=attn_implementation).engine
    decoding(engine)
    long = engine.submit(request(*LONG, max_tokens=12))
    while not long.finished:
        engine.step()
    text, done = await read(long)
    assert (text, done.token_ids) == (expected[0], expected[1].token_ids)


async def test_the_first_distribution_behind_chunks_is_that_of_a_whole_prompt(loaded, chunking):
    (_, expected) = await alone(loaded, request(*LONG, logprobs=True))
    engine = chunking().engine
    decoding(engine)
    long = engine.submit(request(*LONG, logprobs=True))
    while not long.finished:
        engine.step()
    got = torch.tensor((await read(long))[1].first_token_logprobs)
    assert torch.allclose(got, torch.tensor(expected.first_token_logprobs), atol=1e-4)


async def test_a_sliding_window_hides_old_positions_of_a_chunk(tokenizer, tmp_path, chunking):
    model = make_llava(tokenizer.get_vocab_size(), text_config=functools.partial(MistralConfig, sliding_window=5))
    engine = chunking(save(model, tmp_path, tokenizer)).engine
    decoding(engine)
    generation = engine.submit(request(*LONG, max_tokens=12))
    while not generation.finished:
        engine.step()
    output = model.generate(input_ids=torch.tensor([LONG]), max_new_tokens=12, do_sample=False, pad_token_id=3)
    assert (await read(generation))[1].token_ids == output[0, len(LONG) :].tolist()


async def test_other_sequences_decode_a_token_between_two_chunks(chunking):
    engine = chunking().engine
    stream = decoding(engine)
    long = engine.submit(request(*LONG, max_tokens=4))
    tokens = []
    while not long.token_ids:
        engine.step()
        tokens.append(len(stream.token_ids))
    assert tokens == list(range(3, 3 + 5))  # 71 tokens in chunks of 16


async def test_a_sequence_that_reports_attention_does_not_wait_for_a_whole_prompt(chunking):
    """It decodes in a batch of its own."""
    engine = chunking().engine
    layered = engine.submit(
        dataclasses.replace(
            request(BOS, IMAGE, features=np.ones((4, 32), np.float32), max_tokens=100), cross_attention=CrossAttention()
        )
    )
    engine.step()
    long = engine.submit(request(*LONG, max_tokens=4))
    num_steps = 0
    while not long.token_ids:
        engine.step()
        num_steps += 1
    assert num_steps == 5  # 71 tokens in chunks of at most 16
    assert len(layered.token_ids) == 2 + num_steps


async def test_a_prompt_that_nothing_waits_for_is_run_whole(chunking):
    engine = chunking().engine
    long = engine.submit(request(*LONG, max_tokens=4))
    engine.step()
    assert len(long.token_ids) == 2


async def test_prompts_behind_a_long_one_wait_for_it_and_not_for_its_answer(loaded, chunking):
    expected = await alone(loaded, mixed(0))
    engine = chunking().engine
    decoding(engine)
    long, short = engine.submit(request(*LONG, max_tokens=50)), engine.submit(mixed(0))
    for _ in range(5):
        engine.step()
        assert not short.token_ids
    engine.step()
    assert long.token_ids
    assert short.token_ids
    while not short.finished:
        engine.step()
    assert (await read(short))[0] == expected[0]


async def test_a_long_prompt_can_be_aborted_between_two_chunks(loaded, chunking):
    expected = await alone(loaded, mixed(2))
    engine = chunking(max_batch_size=2).engine
    decoding(engine)
    long = engine.submit(request(*LONG, max_tokens=4))
    engine.step()
    engine.step()
    before = failures("generation_abandoned")
    long.abort()
    next_one = engine.submit(mixed(2))
    engine.step()
    assert failures("generation_abandoned") == before + 1
    while not next_one.finished:
        engine.step()
    assert not long.token_ids
    assert (await read(next_one))[0] == expected[0]


async def test_an_overflow_in_a_chunk_does_not_outlive_its_aborted_sequence(loaded, chunking):
    """Its slot serves the next request, which attends over positions that it has not written."""
    expected = await alone(loaded, mixed(2))
    engine = chunking(max_batch_size=2).engine
    decoding(engine)
    bad = engine.submit(request(BOS, IMAGE, *LONG[1:], features=np.full((9, 32), 3e38, np.float32)))
    engine.step()
    slot = bad.slot
    bad.abort()
    good = engine.submit(mixed(2))
    engine.step()
    assert good.slot == slot
    while not good.finished:
        engine.step()
    assert (await read(good))[0] == expected[0]


async def test_a_chunk_that_fails_ends_its_own_sequence_only(loaded, chunking):
    expected = await alone(loaded, request(BOS, 90, max_tokens=20))
    engine = chunking(max_batch_size=2).engine
    stream = engine.submit(request(BOS, 90, max_tokens=20))
    engine.step()
    long = engine.submit(request(*LONG, max_tokens=4))
    engine.step()
    forward, calls = engine._model.causal_lm.forward, []

    def fails_once(*args, **kwargs):
        calls.append(kwargs)
        if len(calls) == 1:
            raise RuntimeError("no check foresaw this")
        return forward(*args, **kwargs)

    engine._model.causal_lm.forward = fails_once
    run_dry(engine)
    with pytest.raises(InternalError):
        await anext(long)
    assert (await read(stream))[0] == expected[0]
