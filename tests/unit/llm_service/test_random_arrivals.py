"""Requests of all kinds that arrive, are aborted and fail at random, against each of them computed alone."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from fovea.modeling.capture import StandInCapture
from llm_service.engine import slots
from llm_service.engine.base import CrossAttention
from llm_service.engine.launching import Launching
from tests.unit.llm_service.test_engine import BOS, IMAGE, read, request, run_dry

pytestmark = pytest.mark.slow

NUM_REQUESTS = 30
LAUNCHINGS = {
    "as on a CPU": Launching(),
    "as on a GPU": Launching(few_sizes=True, defers_reads=True),
    "as on a GPU, with graphs": Launching(few_sizes=True, defers_reads=True, capture=StandInCapture()),
}


def random_options(rng):
    """Fields of a request: with an image or not, greedy or sampled, with penalties, log-probabilities, attention."""
    ids = [BOS, *(rng.randrange(30, 120) for _ in range(rng.choice([1, 2, 5, 10, 20, 40, 70])))]
    options = {"max_tokens": rng.choice([1, 1, 2, 3, 8, 20, 40]), "logprobs": rng.random() < 0.2}
    if rng.random() < 0.4:
        ids.insert(rng.randrange(1, len(ids) + 1), IMAGE)
        count = rng.choice([2, 9, 30])
        options["features"] = np.random.default_rng(rng.randrange(999)).standard_normal((count, 32), np.float32)
    if rng.random() < 0.5:
        options |= {"temperature": rng.choice([0.5, 1.0, 1.7]), "seed": rng.randrange(1000)}
        options |= {"top_p": rng.choice([0.3, 0.8, 1.0]), "top_k": rng.choice([0, 1, 5, 10_000])}
        options |= {"min_p": rng.choice([0.0, 0.1])}
    if rng.random() < 0.4:
        options |= {"repetition_penalty": rng.choice([1.0, 1.3, 0.7]), "frequency_penalty": rng.choice([0.0, 0.4])}
        options |= {"presence_penalty": rng.choice([0.0, 0.5, -0.5])}
    reports_attention = "features" in options and rng.random() < 0.4
    return ids, options, CrossAttention() if reports_attention else None


def new_request(ids, options, cross_attention):
    return dataclasses.replace(request(*ids, **options), cross_attention=cross_attention)


def overflow(rng):
    """A request whose numbers are not finite."""
    features = np.full((rng.choice([5, 40]), 32), 3e38, np.float32)
    return request(BOS, IMAGE, *[60] * rng.choice([1, 30]), features=features)


async def alone(engine, options):
    generation = engine.submit(new_request(*options))
    run_dry(engine)
    return await read(generation)


def check_nothing_is_left(engine):
    """All slots and rows of penalties are free, and hold finite numbers."""
    assert sum(map(len, engine._slots._free)) == sum(slot_class.count for slot_class in engine._cache.classes)
    for batch in engine._batches:
        assert not any((batch._choice._rows, batch._reads, batch._last_tokens, batch._decoding))
    spare = 1  # the vector that takes what belongs to no sequence
    assert all(tensor[:-spare].isfinite().all() for pair in engine._cache._layers for tensor in pair)


@pytest.mark.parametrize("launching", LAUNCHINGS.values(), ids=LAUNCHINGS)
@pytest.mark.parametrize("seed", range(3))
async def test_every_answer_is_that_of_the_request_alone(loaded, monkeypatch, seed, launching):
    monkeypatch.setattr(slots, "_LENGTHS", (32, 80))
    rng = random.Random(seed)
    settings = {"max_model_len": 128, "max_queue_size": 100}
    reference = loaded(**settings).engine
    all_options = [random_options(rng) for _ in range(NUM_REQUESTS)]
    expected = [await alone(reference, options) for options in all_options]
    max_batch_size = rng.choice([2, 3, 5])
    chunked = {**settings, "max_batch_size": max_batch_size, "max_prefill_tokens": 16}
    engine = loaded(**chunked, launching=launching).engine
    forward = engine._model.causal_lm.forward

    def fails_for_several(*args, **kwargs):
        engine._model.causal_lm.forward = forward
        if kwargs.get("inputs_embeds") is not None and len(kwargs["inputs_embeds"]) > 1:
            raise RuntimeError("a prefill of several prompts fails")
        return forward(*args, **kwargs)

    generations, aborted = [], set()
    while len(generations) < NUM_REQUESTS or engine.num_waiting or engine.num_running:
        arriving = all_options[len(generations) :][: rng.choice([0, 0, 1, 1, 2, 4])]
        generations += [engine.submit(new_request(*options)) for options in arriving]
        if rng.random() < 0.1:
            noise = engine.submit(overflow(rng))
            if rng.random() < 0.5:
                noise.abort()
        if rng.random() < 0.1 and generations:
            victim = rng.randrange(len(generations))
            if not generations[victim].finished:
                aborted.add(victim)
                generations[victim].abort()
        if rng.random() < 0.05:
            engine._model.causal_lm.forward = fails_for_several
        engine.step()
        assert engine.num_running <= max_batch_size
    check_nothing_is_left(engine)
    assert len(aborted) < NUM_REQUESTS // 2
    for i, (generation, (text, done)) in enumerate(zip(generations, expected, strict=True)):
        if i in aborted:
            continue
        got_text, got = await read(generation)
        assert (i, got_text, got.token_ids) == (i, text, done.token_ids)
        np.testing.assert_allclose(got.first_token_logprobs, done.first_token_logprobs, atol=1e-4)
        np.testing.assert_allclose(got.cross_attention, done.cross_attention, atol=1e-5)
