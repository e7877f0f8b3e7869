"""The engine with its steps called by the test, so that the batch is exact at each step and nothing is timed."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from fovea.errors import DeadlineExceeded, InternalError, InvalidRequest, Overloaded, Unavailable
from llm_service.engine.base import Delta, Done, GenerationRequest
from llm_service.prompts import Prompt, VisualTokens
from llm_service.sampling import SamplingParams

BOS, IMAGE = 1, 4


def request(*ids, features=None, deadline_s=60.0, logprobs=False, top_logprobs=None, **sampling):
    images = [] if features is None else [VisualTokens(features, np.arange(len(features)), (1, 4, 4))]
    return GenerationRequest(
        Prompt(np.array(ids), tuple(images)),
        SamplingParams(**{"max_tokens": 6, **sampling}),
        deadline=time.monotonic() + deadline_s,
        first_token_logprobs=logprobs,
        top_logprobs=top_logprobs,
    )


def run_dry(engine):
    while engine.num_waiting or engine.num_running:
        engine.step()


async def read(generation):
    events = [event async for event in generation]
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events[:-1]), events[-1]


async def alone(loaded, single_request):
    engine = loaded().engine
    generation = engine.submit(single_request)
    run_dry(engine)
    return await read(generation)


def failures(kind):
    return REGISTRY.get_sample_value("fovea_failures_total", {"kind": kind}) or 0.0


MIXED = [
    {"ids": (BOS, 60, 61, 62), "max_tokens": 12},
    {"ids": (BOS, IMAGE, 70), "features": np.full((9, 32), 0.3, np.float32), "max_tokens": 3},
    {"ids": (BOS, 90, 91, 92, 93, 94, 95, 96, 97), "max_tokens": 7, "temperature": 1.0, "seed": 5},
    {"ids": (BOS, 33), "max_tokens": 9, "temperature": 0.7, "top_p": 0.8, "seed": 6},
    {"ids": (BOS, IMAGE), "features": np.full((2, 32), -1, np.float32), "max_tokens": 1},
]


def mixed(i):
    options = dict(MIXED[i])
    return request(*options.pop("ids"), **options)


@pytest.mark.parametrize("max_batch_size", [2, 8])
async def test_answers_do_not_depend_on_the_batch(loaded, max_batch_size):
    """Greedy and sampled, with and without an image, of all lengths; some join while others decode."""
    expected = [await alone(loaded, mixed(i)) for i in range(len(MIXED))]
    engine = loaded(max_batch_size=max_batch_size).engine
    generations = [engine.submit(mixed(0)), engine.submit(mixed(1))]
    engine.step()
    generations += [engine.submit(mixed(i)) for i in (2, 3, 4)]
    engine.step()
    assert engine.num_running <= max_batch_size
    run_dry(engine)
    for generation, (text, done) in zip(generations, expected, strict=True):
        got_text, got = await read(generation)
        assert got_text == text
        assert got.token_ids == done.token_ids
        assert got.prompt_tokens == done.prompt_tokens


async def test_a_seed_gives_the_same_answer_in_any_batch(loaded):
    sampling = {"max_tokens": 20, "temperature": 1.5}
    engine = loaded().engine
    generations = [engine.submit(request(BOS, 60, **sampling, seed=seed)) for seed in (1, 1, 2)]
    run_dry(engine)
    first, same, other = [(await read(generation))[1].token_ids for generation in generations]
    assert first == same != other


async def test_an_aborted_sequence_leaves_before_the_next_token_and_the_others_go_on(loaded):
    expected = await alone(loaded, mixed(0))
    engine = loaded().engine
    aborted, kept = engine.submit(request(BOS, 80, max_tokens=200)), engine.submit(mixed(0))
    engine.step()
    assert engine.num_running == 2
    before = failures("generation_abandoned")
    aborted.abort()
    engine.step()
    assert engine.num_running == 1
    assert failures("generation_abandoned") == before + 1
    run_dry(engine)
    assert (await read(kept))[0] == expected[0]


async def test_a_request_that_is_aborted_in_the_queue_is_never_computed(loaded):
    engine = loaded(max_batch_size=1).engine
    running, waiting = engine.submit(request(BOS, 60)), engine.submit(request(BOS, 61))
    engine.step()
    waiting.abort()
    before = failures("generation_abandoned_in_queue")
    run_dry(engine)
    assert failures("generation_abandoned_in_queue") == before + 1
    assert (await read(running))[1].finish_reason == "length"


async def test_queue_time_is_observed_once_for_each_request_aborted_ones_included(loaded):
    def num_observed():
        return REGISTRY.get_sample_value("fovea_queue_wait_seconds_count")

    before = num_observed()
    engine = loaded(max_batch_size=1).engine
    running, aborted = engine.submit(request(BOS, 60)), engine.submit(request(BOS, 61))
    engine.step()
    assert num_observed() == before + 1
    aborted.abort()
    run_dry(engine)
    assert num_observed() == before + 2
    await read(running)


async def test_a_full_queue_refuses_at_once_with_a_retry_time(loaded):
    engine = loaded(max_queue_size=2).engine
    first = engine.submit(request(BOS, 60))
    engine.submit(request(BOS, 61))
    with pytest.raises(Overloaded, match="2 requests waiting, as many as it accepts") as caught:
        engine.submit(request(BOS, 62))
    assert caught.value.retry_after_s == 1
    first.abort()
    engine.submit(request(BOS, 63))
    assert engine.num_waiting == 2


async def test_a_passed_deadline_is_refused_before_the_queue(loaded):
    engine = loaded().engine
    with pytest.raises(DeadlineExceeded):
        engine.submit(request(BOS, 60, deadline_s=-1))
    assert engine.num_waiting == 0


async def test_a_deadline_ends_the_wait_and_makes_room_in_the_queue(loaded):
    """The caller is answered without a step of the engine, and the sequence is not computed later."""
    engine = loaded().engine
    with pytest.raises(DeadlineExceeded):
        await anext(engine.submit(request(BOS, 60, deadline_s=0.05)))
    engine.step()
    assert engine.num_running == engine.num_waiting == 0


async def test_an_answer_is_cut_at_the_end_of_the_context(loaded):
    engine = loaded(max_model_len=10).engine
    generation = engine.submit(request(BOS, *range(60, 66), max_tokens=100))
    run_dry(engine)
    _, done = await read(generation)
    assert done.finish_reason == "length"
    assert done.prompt_tokens + done.completion_tokens == 10


async def test_overflow_of_the_dtype_ends_its_own_sequence_only(loaded):
    """The features are finite on the wire, but the projector overflows; other sequences are not affected."""
    expected = await alone(loaded, mixed(0))
    engine = loaded().engine
    bad = engine.submit(request(BOS, IMAGE, features=np.full((2, 32), 3e38, np.float32)))
    good = engine.submit(mixed(0))
    run_dry(engine)
    with pytest.raises(InvalidRequest, match="beyond the numbers it can represent"):
        await anext(bad)
    assert (await read(good))[0] == expected[0]


async def test_a_prompt_that_the_model_cannot_take_fails_alone(loaded, caplog):
    """Validation refuses such a prompt; if one got through, running sequences would go on."""
    expected = await alone(loaded, mixed(0))
    engine = loaded().engine
    good = engine.submit(mixed(0))
    engine.step()
    bad = engine.submit(request(BOS, IMAGE, features=np.ones((2, 7), np.float32)))
    run_dry(engine)
    with pytest.raises(InternalError, match="the log of the LLM service has the reason"):
        await anext(bad)
    assert "the inputs of a sequence cannot be computed" in caplog.text
    assert (await read(good))[0] == expected[0]


POISON = 99


def poison(engine, error):
    """Makes the forward pass fail for every batch with a prompt that holds the token POISON."""
    embeddings, forward = engine._model.causal_lm.get_input_embeddings(), engine._model.causal_lm.forward
    poisoned = embeddings.weight[POISON]

    def forward_or_fail(*args, inputs_embeds=None, **options):
        if inputs_embeds is not None and (inputs_embeds == poisoned).all(dim=-1).any():
            raise error("no check foresaw this")
        return forward(*args, inputs_embeds=inputs_embeds, **options)

    engine._model.causal_lm.forward = forward_or_fail


@pytest.mark.parametrize(
    ("error", "expected_error"),
    [(RuntimeError, InternalError), (torch.OutOfMemoryError, Overloaded), (MemoryError, Overloaded)],
)
async def test_a_prompt_that_fails_does_not_fail_its_prefill_batch(loaded, error, expected_error):
    """The other prompts of the same prefill and the running sequences are answered."""
    expected = [await alone(loaded, mixed(i)) for i in range(3)]
    engine = loaded().engine
    poison(engine, error)
    before = failures("prefill_apart")
    decoding = engine.submit(mixed(0))
    engine.step()
    first, bad, last = map(engine.submit, (mixed(1), request(BOS, POISON), mixed(2)))
    run_dry(engine)
    with pytest.raises(expected_error):
        await anext(bad)
    for generation, (text, done) in zip((decoding, first, last), expected, strict=True):
        answer = await read(generation)
        assert answer[0] == text
        assert answer[1].token_ids == done.token_ids
    assert failures("prefill_apart") == before + 1


async def test_a_prompt_that_cannot_be_embedded_costs_no_second_prefill(loaded):
    expected = await alone(loaded, mixed(1))
    engine = loaded().engine
    before = failures("prefill_apart")
    bad = engine.submit(request(BOS, IMAGE, features=np.ones((2, 7), np.float32)))
    good = engine.submit(mixed(1))
    run_dry(engine)
    with pytest.raises(InternalError):
        await anext(bad)
    assert (await read(good))[0] == expected[0]
    assert failures("prefill_apart") == before  # one prefill, of the remaining prompts


async def test_a_token_that_cannot_be_appended_fails_its_own_sequence_only(loaded, monkeypatch):
    expected = await alone(loaded, mixed(0))
    engine = loaded().engine
    good, bad = engine.submit(mixed(0)), engine.submit(mixed(1))
    monkeypatch.setattr(bad, "append_token", lambda *_: 1 / 0)
    run_dry(engine)
    with pytest.raises(InternalError):
        await anext(bad)
    assert (await read(good))[0] == expected[0]


async def test_stopping_ends_running_and_waiting_requests(loaded):
    engine = loaded(max_batch_size=1).engine
    running, waiting = engine.submit(request(BOS, 60)), engine.submit(request(BOS, 61))
    engine.step()
    engine.stop()
    assert isinstance(await anext(running), Delta)
    for generation in (running, waiting):
        with pytest.raises(Unavailable):
            async for _ in generation:
                pass
    with pytest.raises(Unavailable):
        engine.submit(request(BOS, 62))


async def test_the_model_thread_fills_a_batch_and_ends(loaded):
    engine = loaded(max_batch_size=2, max_batch_delay_ms=60_000).engine
    engine.start()
    answers = await asyncio.gather(*(read(engine.submit(mixed(i))) for i in (0, 3)))
    assert [len(done.token_ids) for _, done in answers] == [12, 9]
    engine.stop()


async def test_the_first_distribution_is_normalized_and_reported_on_request_only(loaded):
    engine = loaded().engine
    requested, other = engine.submit(request(BOS, 60, logprobs=True)), engine.submit(request(BOS, 60))
    run_dry(engine)
    logprobs = np.array((await read(requested))[1].first_token_logprobs)
    assert logprobs.shape == (288,)
    assert np.exp(logprobs).sum() == pytest.approx(1, abs=1e-5)
    done = (await read(other))[1]
    assert done.first_token_logprobs == []
    assert done.token_ids[0] == logprobs.argmax()


async def test_tokens_steps_and_times_are_measured(loaded):
    names = (
        "fovea_prompt_tokens_total",
        "fovea_generation_tokens_total",
        "fovea_prefill_seconds_count",
        "fovea_time_to_first_token_seconds_count",
        "fovea_time_per_output_token_seconds_count",
        "fovea_llm_batch_size_count",
        "fovea_llm_batch_size_sum",
    )
    engine = loaded(max_batch_size=4).engine
    before = [REGISTRY.get_sample_value(name) for name in names]
    generations = [engine.submit(request(BOS, 5, 6, max_tokens=n, ignore_eos=True)) for n in (1, 4, 4)]
    run_dry(engine)
    for generation in generations:
        await read(generation)
    added = [REGISTRY.get_sample_value(name) - then for name, then in zip(names, before, strict=True)]
    assert added == [9, 9, 3, 3, 2, 3, 6]  # three steps of two sequences; an answer of one token has no step


async def test_the_key_value_cache_tells_its_size_and_what_is_taken(loaded):
    engine = loaded().engine
    engine.start()
    try:
        assert REGISTRY.get_sample_value("fovea_kv_cache_bytes") > 0
        await read(engine.submit(request(BOS, 5, 6, max_tokens=2)))
    finally:
        engine.stop()
    assert REGISTRY.get_sample_value("fovea_kv_cache_usage_ratio") == 0
