"""Both engines with the same requests: for every family vLLM's answers and errors are those of transformers.

The checkpoint that vLLM loads has no vision tower, so that reading one would fail.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import shutil

import numpy as np
import pytest

from fovea.errors import DeadlineExceeded, InvalidRequest, Overloaded
from fovea.modeling.compute import resolve_device
from llm_service.engine.base import CrossAttention, Delta
from llm_service.models import load_model
from tests.vllm.engines import (
    FAMILIES,
    MAX_BATCH_SIZE,
    MAX_MODEL_LEN,
    Requests,
    answers,
    cached_tokens,
    drop_towers,
    gap,
    read,
    served,
    write,
)

pytestmark = pytest.mark.timeout(900)

NUM_PROMPTS = 50
WORDS = [60, 61, 62, 63, 64]


class BothEngines:
    """Both engines with a checkpoint of one family."""

    def __init__(self, family, folder):
        self.checkpoint = write(family, folder / "whole")
        self.transformers = served(self.checkpoint, "transformers")
        without_tower = shutil.copytree(self.checkpoint, folder / "language")
        drop_towers(without_tower)
        self.vllm = served(without_tower, "vllm", max_queue_size=64)
        self.requests = Requests(self.vllm.limits)
        self.deaths = []
        self.transformers.engine.start()
        self.vllm.engine.start(on_death=lambda: self.deaths.append(family))


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory):
    both = BothEngines(request.param, tmp_path_factory.mktemp(request.param))
    yield both
    both.transformers.engine.stop()
    both.vllm.engine.stop()
    assert not both.deaths


@pytest.fixture
def engine(both):
    return both.vllm.engine


@pytest.fixture
def requests(both):
    return both.requests


@pytest.mark.parametrize(
    "penalties", [{}, {"repetition_penalty": 1.3}, {"frequency_penalty": 0.4, "presence_penalty": 0.3}]
)
async def test_greedy_tokens_are_those_of_transformers(both, penalties):
    """Tokens may differ only where the two largest logits are nearly equal."""
    prompts = list(both.requests.several(NUM_PROMPTS, **penalties))
    expected = await answers(both.transformers.engine, prompts)
    actual = await answers(both.vllm.engine, prompts)
    model = None
    for request, (text, _, done), (vllm_text, _, vllm_done) in zip(prompts, expected, actual, strict=True):
        assert vllm_done.prompt_tokens == done.prompt_tokens
        if vllm_done.token_ids == done.token_ids:
            assert (vllm_text, vllm_done.finish_reason) == (text, done.finish_reason)
            continue
        pairs = zip(done.token_ids, vllm_done.token_ids, strict=False)
        agreed = next(i for i, (token_id, vllm_token_id) in enumerate(pairs) if token_id != vllm_token_id)
        model = model or load_model(
            both.checkpoint, device=resolve_device("cpu"), dtype="float32", attn_implementation="sdpa"
        )
        assert gap(model, request, done.token_ids[:agreed]) < 1e-3


async def test_the_distribution_of_the_first_token_is_that_of_transformers(both):
    request = both.requests.make(WORDS, [both.requests.visual(28)], logprobs=True, max_tokens=3)
    (_, _, expected), (_, _, actual) = [
        (await answers(served.engine, [request]))[0] for served in (both.transformers, both.vllm)
    ]
    assert len(actual.first_token_logprobs) == both.vllm.limits.vocab_size
    np.testing.assert_allclose(actual.first_token_logprobs, expected.first_token_logprobs, atol=1e-4)
    assert actual.token_ids == expected.token_ids


async def test_log_probabilities_of_tokens_are_those_of_transformers(both):
    """Of the raw logits, also where penalties and filters choose the token."""

    async def logprobs_of(engine, request):
        return [one async for event in engine.submit(request) if isinstance(event, Delta) for one in event.logprobs]

    chosen = {"temperature": 2.0, "top_k": 1, "repetition_penalty": 1.3}  # one token, whatever the seed
    for num_top, sampling in ((0, {}), (3, chosen), (20, {}), (None, {})):
        sampling = {**sampling, "ignore_eos": True}
        request = both.requests.make(WORDS, [both.requests.visual(28)], top_logprobs=num_top, **sampling)
        expected, actual = [await logprobs_of(one.engine, request) for one in (both.transformers, both.vllm)]
        assert len(actual) == len(expected) == (0 if num_top is None else 16)
        for one, other in zip(actual, expected, strict=True):
            assert (one.token_id, one.token) == (other.token_id, other.token)
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [top.token_id for top in one.top] == [top.token_id for top in other.top]
            assert [top.logprob for top in one.top] == pytest.approx([top.logprob for top in other.top], abs=1e-4)
            assert len(one.top) == num_top


async def test_an_answer_streams_and_a_stop_string_cuts_it(engine, requests):
    text, pieces, done = await read(engine.submit(requests.make(WORDS, max_tokens=24, ignore_eos=True)))
    assert len(pieces) > 3
    assert (done.finish_reason, done.completion_tokens) == ("length", 24)
    stop = text[7:9]
    cut, _, done = await read(engine.submit(requests.make(WORDS, max_tokens=24, stop=(stop, "nowhere"))))
    assert cut == text[: text.index(stop)]
    assert done.finish_reason == "stop"


async def test_a_seed_gives_the_same_answer_in_any_batch(engine, requests):
    seeds = (0, 0, 2**64 - 1, 2**64 - 1, None, None)
    sampled = await answers(engine, [requests.make(WORDS, temperature=1.5, top_p=0.95, seed=seed) for seed in seeds])
    tokens = [tuple(done.token_ids) for _, _, done in sampled]
    assert tokens[0] == tokens[1] != tokens[2] == tokens[3]
    assert len(set(tokens)) == 4


async def test_a_narrow_nucleus_is_greedy(engine, requests):
    (greedy, _, _), (narrow, _, _) = await answers(
        engine, [requests.make(WORDS), requests.make(WORDS, temperature=2, top_p=1e-6)]
    )
    assert greedy == narrow


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"min_p": 1.0}])
async def test_one_probable_token_is_greedy(engine, requests, narrow):
    (greedy, _, _), (sampled, _, _) = await answers(
        engine, [requests.make(WORDS), requests.make(WORDS, temperature=2, **narrow)]
    )
    assert greedy == sampled


async def test_end_tokens_that_are_ignored_end_nothing(both):
    """Every token of an answer is made an end token, so that the first one would end it."""
    requests = both.requests
    for engine in (both.transformers.engine, both.vllm.engine):
        (_, _, plain), before = (await answers(engine, [requests.make(WORDS)]))[0], engine._eos_token_ids
        engine._eos_token_ids = frozenset(plain.token_ids)
        (_, _, ended), (text, _, ignored) = await answers(
            engine, [requests.make(WORDS), requests.make(WORDS, ignore_eos=True)]
        )
        engine._eos_token_ids = before
        assert (ended.finish_reason, ended.token_ids) == ("stop", plain.token_ids[:1])
        assert (ignored.finish_reason, ignored.token_ids) == ("length", plain.token_ids)
        assert (text, ignored.completion_tokens) == ("", len(plain.token_ids))


async def test_an_aborted_request_makes_room(engine, requests):
    """A full batch of long answers: one is aborted after its first delta, and the waiting request is admitted."""
    running = [engine.submit(requests.make(WORDS, max_tokens=400, ignore_eos=True)) for _ in range(MAX_BATCH_SIZE)]
    await asyncio.gather(*map(anext, running))
    waiting = asyncio.create_task(read(engine.submit(requests.make(WORDS, max_tokens=2))))
    running[3].abort()
    _, _, done = await waiting
    assert done.completion_tokens == 2
    assert engine.num_running >= MAX_BATCH_SIZE - 1
    for generation in running:
        generation.abort()


async def test_a_full_queue_refuses_and_a_deadline_ends_the_wait(engine, requests):
    running = [engine.submit(requests.make(WORDS, max_tokens=400, ignore_eos=True)) for _ in range(MAX_BATCH_SIZE)]
    await asyncio.gather(*map(anext, running))
    with pytest.raises(DeadlineExceeded):
        await anext(engine.submit(requests.make(WORDS, deadline_s=0.05)))
    waiting = [engine.submit(requests.make(WORDS)) for _ in range(64)]
    with pytest.raises(Overloaded, match="64 requests waiting"):
        engine.submit(requests.make(WORDS))
    for generation in (*running, *waiting):
        generation.abort()
    assert (await read(engine.submit(requests.make(WORDS, max_tokens=2))))[2].completion_tokens == 2


async def test_hostile_requests_are_refused_and_the_next_one_is_answered(engine, requests):
    (expected,) = await answers(engine, [requests.make(WORDS, [requests.visual(28)])])
    nan = dataclasses.replace(requests.visual(3), features=np.full_like(requests.visual(3).features, np.nan))
    for visual in (requests.visual(3, scale=3e38), nan):
        with pytest.raises(InvalidRequest, match="beyond the numbers"):
            await read(engine.submit(requests.make(WORDS, [visual])))
    longest = MAX_MODEL_LEN - 1
    edge_cases = [
        requests.make([5] * (longest - 1), max_tokens=9),
        requests.make(WORDS, [requests.visual(256, scale=1e6)]),
        requests.make([], [requests.visual(7), requests.visual(7)]),
        requests.make(WORDS, temperature=1e-30, top_p=1e-30, seed=2**64 - 1),
    ]
    edge_answers = await answers(engine, edge_cases)
    assert edge_answers[0][2].completion_tokens == 1
    (again,) = await answers(engine, [requests.make(WORDS, [requests.visual(28)])])
    assert again[0] == expected[0]


async def test_layer_by_layer_features_are_refused(engine, requests):
    request = dataclasses.replace(requests.make(WORDS, [requests.visual(3)]), cross_attention=CrossAttention())
    assert engine.pruners == {}
    with pytest.raises(InvalidRequest, match="--engine transformers"):
        engine.submit(request)


async def test_the_prefix_cache_distinguishes_images(both):
    """Same words and lengths, other images: each has its own answer, and only repeated prompts hit the cache."""
    engine, requests = both.vllm.engine, both.requests
    first, other = (requests.make(WORDS * 20, [requests.visual(256, seed=seed)]) for seed in (11, 12))
    expected = [(await answers(both.transformers.engine, [request]))[0][0] for request in (first, other)]
    hits, texts = [], []
    for request in (first, other, first, other):
        before = cached_tokens()
        texts.append((await answers(engine, [request]))[0][0])
        hits.append(cached_tokens() - before)
    assert texts == expected * 2
    # Blocks have 128 tokens; part of the text precedes the image.
    assert hits[0] < 128
    assert hits[1] < 128
    assert min(hits[2:]) >= 256
    assert math.isfinite(sum(hits))


async def test_tenants_do_not_share_the_prefix_cache(both):
    """Equal prompts of another tenant compute every block again; the answer is the same."""
    engine, request = both.vllm.engine, both.requests.make(WORDS * 20, [both.requests.visual(256, seed=21)])
    hits, texts = [], set()
    for tenant in ("a", "b", "a", ""):
        before = cached_tokens()
        texts.add((await answers(engine, [dataclasses.replace(request, cache_salt=tenant)]))[0][0])
        hits.append(cached_tokens() - before)
    assert hits[0] == hits[1] == 0
    assert hits[2] >= 256
    assert hits[3] == 0
    assert len(texts) == 1
