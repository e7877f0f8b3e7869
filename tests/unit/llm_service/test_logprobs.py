"""Log-probabilities of tokens: those of the unsplit model in any batch, however launched, and at no cost for others."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools

import numpy as np
import pytest
import torch

from benchmarks.speed.dispatch_counts import count_operations
from fovea.errors import InvalidRequest
from fovea.modeling.capture import StandInCapture
from fovea.v1 import limits_pb2, llm_pb2
from llm_service.engine.base import CrossAttention, Delta, Done, TokenLogprob
from llm_service.engine.launching import Launching
from llm_service.server.responses import event_messages
from tests.unit.llm_service.test_engine import BOS, IMAGE, MIXED, request, run_dry
from tests.unit.llm_service.test_generate import error_of, generate
from tests.unit.llm_service.test_split_equals_unsplit import PROMPTS, pixel_values, tower_features

NEW_TOKENS = 12
NUM_TOP = (0, 3, 20, 1)
SAMPLINGS = [
    {},
    {"temperature": 1.3, "top_p": 0.9, "seed": 3},
    {"temperature": 0.8, "top_k": 5, "repetition_penalty": 1.5, "seed": 4},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5},
]
LAUNCHINGS = {
    "cpu": None,
    "deferred": Launching(few_sizes=True, defers_reads=True),
    "graphs": Launching(few_sizes=True, defers_reads=True, capture=StandInCapture()),
}


@torch.inference_mode()
def unsplit_logprobs(llava, ids, pixels, answer):
    """[T, V] log-probabilities of transformers' own model in the places of an answer of T tokens."""
    expanded = [i for token in ids for i in ([IMAGE] * 16 if token == IMAGE else [token])]
    logits = llava(
        input_ids=torch.tensor([expanded + answer]), **({"pixel_values": pixels} if len(pixels) else {})
    ).logits
    return logits[0, len(expanded) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("batch_size", [1, 8])
async def test_they_are_those_of_the_raw_logits_of_the_unsplit_model(llava, loaded, serving, visual_tokens, batch_size):
    """Greedy and sampled, with filters and penalties, and with another number of top tokens for each sequence."""
    model = loaded(max_batch_size=batch_size, max_batch_delay_ms=1000 if batch_size == 8 else 0)
    pixels = [pixel_values(ids.count(IMAGE), seed) for seed, ids in enumerate(PROMPTS)]
    requests = []
    for ids, values, sampling, num_top in zip(PROMPTS, pixels, SAMPLINGS, NUM_TOP, strict=True):
        images = [visual_tokens(model.limits.fingerprint, features) for features in tower_features(llava, values)]
        requests.append(generate(ids, images, max_tokens=NEW_TOKENS, **sampling))
        requests[-1].top_logprobs = num_top
    async with serving(model) as client:
        answers = await asyncio.gather(*map(client.ask, requests))
    for ids, values, num_top, answer in zip(PROMPTS, pixels, NUM_TOP, answers, strict=True):
        token_ids = list(answer.done.token_ids)
        expected = unsplit_logprobs(llava, ids, values, token_ids)
        assert [one.token_id for one in answer.logprobs] == token_ids
        for one, row in zip(answer.logprobs, expected, strict=True):
            assert one.logprob == pytest.approx(row[one.token_id].item(), abs=1e-4)
            assert len(one.top) == num_top
            top = row.topk(num_top)
            np.testing.assert_allclose([entry.logprob for entry in one.top], top.values, atol=1e-4)
            np.testing.assert_allclose(row[[entry.token_id for entry in one.top]], top.values, atol=1e-4)


def asking(i):
    """One of the mixed requests, every second of which asks for log-probabilities."""
    options = dict(MIXED[i])
    return request(*options.pop("ids"), **options, top_logprobs=(None, 2)[i % 2] if i else 5)


async def logprobs_of(generation):
    events = [event async for event in generation]
    assert isinstance(events[-1], Done)
    return [one for event in events[:-1] for one in event.logprobs]


@pytest.mark.parametrize("name", LAUNCHINGS)
async def test_they_depend_neither_on_the_batch_nor_on_the_launching(loaded, name):
    expected = []
    for i in range(len(MIXED)):
        engine = loaded().engine
        generation = engine.submit(asking(i))
        run_dry(engine)
        expected.append(await logprobs_of(generation))
    engine = loaded(max_batch_size=4, max_model_len=64, launching=LAUNCHINGS[name]).engine
    generations = [engine.submit(asking(i)) for i in (0, 1)]
    engine.step()
    generations += [engine.submit(asking(i)) for i in (2, 3, 4)]
    run_dry(engine)
    for i, generation in enumerate(generations):
        got = await logprobs_of(generation)
        assert len(got) == (MIXED[i]["max_tokens"] if i in (0, 1, 3) else 0)
        assert [plain(one) for one in got] == [plain(one) for one in expected[i]]
        np.testing.assert_allclose(numbers(got), numbers(expected[i]), atol=1e-5)


def plain(logprob):
    return logprob.token_id, logprob.token, [(top.token_id, top.token) for top in logprob.top]


def numbers(logprobs):
    return [[one.logprob, *(top.logprob for top in one.top)] for one in logprobs]


async def test_they_cost_the_same_for_any_number_of_sequences_and_nothing_without_a_request(loaded):
    def counts(*num_top):
        engine = loaded(max_batch_size=8).engine
        for number in num_top:
            engine.submit(request(BOS, 60, 61, max_tokens=30, top_logprobs=number))
        engine.step()
        step = count_operations(engine.step)
        assert engine.num_running == len(num_top)
        return step

    without, one, some, all_of_them = (counts(*n) for n in ([None], [5], [None, 20, None, 0], [1] * 8))
    assert counts(None, None, None).total == without.total
    assert not {"aten._log_softmax.default", "aten.topk.default"} & without.operators.keys()
    assert one.total == some.total == all_of_them.total > without.total
    assert [(step.reads, step.exports) for step in (without, one, some, all_of_them)] == [(0, 1)] * 4


@pytest.mark.parametrize("name", ["cpu", "deferred"])
async def test_a_sequence_that_runs_layer_by_layer_reports_them(loaded, name):
    options = request(BOS, IMAGE, 60, features=np.full((9, 32), 0.3, np.float32), top_logprobs=4)
    launching = LAUNCHINGS[name]
    engine = loaded(max_batch_size=4, launching=launching).engine
    generations = [
        engine.submit(one) for one in (options, dataclasses.replace(options, cross_attention=CrossAttention()))
    ]
    run_dry(engine)
    ordinary, layered = [await logprobs_of(generation) for generation in generations]
    assert [plain(one) for one in layered] == [plain(one) for one in ordinary]
    np.testing.assert_allclose(numbers(layered), numbers(ordinary), atol=1e-4)


@pytest.fixture
async def reciter(loaded, serving, recite_checkpoint):
    async with serving(loaded(recite_checkpoint, max_batch_delay_ms=0)) as client:
        yield client


def asked(num_top=1, **sampling):
    message = generate(**sampling)
    message.top_logprobs = num_top
    return message


def joined(answer):
    return b"".join(one.token for one in answer.logprobs)


async def test_every_token_of_the_text_has_one_entry_and_the_end_token_none(reciter, recited):
    answer = await reciter.ask(asked())
    assert answer.text == recited
    assert answer.deltas == list(recited)
    assert [one.token_id for one in answer.logprobs] == list(answer.done.token_ids)[:-1]
    assert joined(answer) == recited.encode()


async def test_entries_come_with_the_first_character_of_their_token(reciter, recited):
    """A character of several tokens comes with the entries of all of them."""
    deltas = [message.delta async for message in reciter.stub.Generate(asked()) if message.HasField("delta")]
    assert [b"".join(one.token for one in delta.logprobs).decode() for delta in deltas] == list(recited)
    assert max(len(delta.logprobs) for delta in deltas) == 4


@pytest.mark.parametrize(
    ("stop", "tokens"),
    [("STOP", "Hi 🙂,é_漢"), ("🙂", "Hi "), ("H", ""), ("nowhere", "Hi 🙂,é_漢STOP!"), ("!", "Hi 🙂,é_漢STOP")],
)
async def test_tokens_of_a_stop_string_have_none(reciter, stop, tokens):
    answer = await reciter.ask(asked(stop=[stop]))
    assert answer.text == tokens
    assert joined(answer) == tokens.encode()


async def test_the_bytes_of_an_unfinished_character_are_reported(reciter):
    answer = await reciter.ask(asked(max_tokens=4))
    assert answer.text == "Hi \ufffd"
    assert joined(answer) == b"Hi \xf0"


async def test_ignored_end_tokens_have_entries(reciter, recited):
    answer = await reciter.ask(asked(max_tokens=60, ignore_eos=True))
    assert [one.token_id for one in answer.logprobs] == list(answer.done.token_ids)
    assert joined(answer).startswith(recited.encode() + b"</s>")


async def test_none_are_sent_unless_requested(reciter):
    assert not (await reciter.ask(generate())).logprobs


async def test_more_than_20_are_refused(reciter):
    for number in (21, 2**32 - 1):
        error = await error_of(reciter, asked(number))
        assert isinstance(error, InvalidRequest)
        assert error.param == "top_logprobs"
        assert error.message == f"top_logprobs must be 0 to 20, not {number}"
    assert all(len(one.top) == 20 for one in (await reciter.ask(asked(20))).logprobs)


async def test_the_service_reports_that_it_knows_the_request(reciter):
    info = await reciter.stub.GetModelInfo(llm_pb2.GetLLMInfoRequest())
    assert info.newest_request_field >= llm_pb2.GenerateRequest.DESCRIPTOR.fields_by_name["top_logprobs"].number


def test_many_entries_take_several_messages():
    """A stop string, or bytes that form no character, can hold back any number of tokens."""
    entries = tuple(TokenLogprob(i, b"x", -1.0, ()) for i in range(600))
    deltas = [message.delta for message in event_messages(Delta("text", entries))]
    assert [delta.text for delta in deltas] == ["text", "", ""]
    assert [one.token_id for one in itertools.chain(*(delta.logprobs for delta in deltas))] == list(range(600))
    options = llm_pb2.Delta.DESCRIPTOR.fields_by_name["logprobs"].GetOptions()
    assert max(len(delta.logprobs) for delta in deltas) == options.Extensions[limits_pb2.max_items]
    assert [message.delta.text for message in event_messages(Delta("text"))] == ["text"]
