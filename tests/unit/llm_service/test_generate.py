"""Generate and GetModelInfo over real gRPC."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import fields

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client import REGISTRY

from fovea.errors import (
    CheckpointMismatch,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    Unavailable,
    from_rpc_error,
)
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import llm_pb2, tensor_pb2
from fovea.wire import tensors
from llm_service.sampling import SamplingParams
from llm_service.server.servicer import LLMServicer
from llm_service.settings import LLMSettings

BOS, IMAGE, EOS = 1, 4, 2


def generate(ids=(60, BOS), images=(), **sampling):
    return llm_pb2.GenerateRequest(
        input_ids=ids,
        visual_tokens=images,
        sampling=llm_pb2.SamplingParams(**{"max_tokens": 100, **sampling}),
    )


async def error_of(client, request):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.ask(request)
    return from_rpc_error(caught.value, "LLM service")


@pytest.fixture
async def reciter(loaded, serving, recite_checkpoint):
    async with serving(loaded(recite_checkpoint, max_batch_delay_ms=0)) as client:
        yield client


async def test_text_streams_in_whole_characters_to_the_end_token(reciter, recited):
    answer = await reciter.ask(generate())
    assert answer.text == recited
    assert answer.deltas == list(recited)
    assert answer.done.finish_reason == "stop"
    assert answer.done.token_ids[-1] == EOS
    assert answer.done.completion_tokens == len(answer.done.token_ids) - 1
    timing = answer.done.timing
    assert 0 <= timing.queue_ms <= timing.time_to_first_token_ms <= timing.generate_ms


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["STOP"], "Hi 🙂,é_漢"),
        (["OP!", "TO"], "Hi 🙂,é_漢S"),
        (["漢S", "nowhere"], "Hi 🙂,é_"),
        (["🙂"], "Hi "),
        (["H"], ""),
        (["STOPS", "!?"], "Hi 🙂,é_漢STOP!"),
    ],
)
async def test_the_text_ends_before_a_stop_string(reciter, stop, text):
    answer = await reciter.ask(generate(stop=stop))
    assert answer.text == text
    assert answer.done.finish_reason == "stop"


async def test_max_tokens_cuts_and_shows_the_unfinished_character(reciter):
    answer = await reciter.ask(generate(max_tokens=4), timeout=None)
    assert answer.text == "Hi \ufffd"
    assert answer.done.finish_reason == "length"
    assert answer.done.completion_tokens == 4


async def test_end_tokens_that_are_ignored_are_no_text_and_end_nothing(reciter, recited, tokenizer):
    answer = await reciter.ask(generate(max_tokens=60, ignore_eos=True))
    ids = list(answer.done.token_ids)
    assert (answer.done.finish_reason, answer.done.completion_tokens, len(ids)) == ("length", 60, 60)
    end = ids.index(EOS)
    assert end < 59
    assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert answer.text.startswith(recited)
    again = await reciter.ask(generate(max_tokens=60, ignore_eos=False))
    assert (again.text, again.done.finish_reason, again.done.completion_tokens) == (recited, "stop", end)


async def test_a_stop_string_behind_an_ignored_end_token_ends_the_text(reciter, recited):
    text = (await reciter.ask(generate(max_tokens=60, ignore_eos=True))).text
    stop = text[len(recited) - 1 : len(recited) + 2]  # across the end token
    answer = await reciter.ask(generate(max_tokens=60, ignore_eos=True, stop=[stop]))
    assert answer.text == recited[:-1]
    assert answer.done.finish_reason == "stop"
    assert EOS in answer.done.token_ids[:-1]
    assert answer.done.completion_tokens == len(answer.done.token_ids)


async def test_an_end_token_at_the_limit_counts_if_it_is_ignored(reciter):
    num_tokens = len((await reciter.ask(generate())).done.token_ids)
    for ignore_eos, counted, reason in ((False, num_tokens - 1, "stop"), (True, num_tokens, "length")):
        done = (await reciter.ask(generate(max_tokens=num_tokens, ignore_eos=ignore_eos))).done
        assert (done.token_ids[-1], done.completion_tokens, done.finish_reason) == (EOS, counted, reason)


async def test_seeds_repeat_over_the_wire(loaded, serving):
    async with serving(loaded()) as client:
        first, same, other, unseeded = await asyncio.gather(
            *(client.ask(generate(max_tokens=20, temperature=1.5, top_p=0.95, **s)) for s in SEEDS)
        )
    assert first.text == same.text
    assert len({tuple(a.done.token_ids) for a in (first, other, unseeded)}) == 3


async def test_a_narrow_nucleus_is_greedy(loaded, serving):
    async with serving(loaded()) as client:
        greedy, narrow = await asyncio.gather(
            client.ask(generate(max_tokens=20)), client.ask(generate(max_tokens=20, temperature=2, top_p=1e-6))
        )
    assert greedy.done.token_ids == narrow.done.token_ids


SEEDS = [{"seed": 0}, {"seed": 0}, {"seed": 1}, {}]


async def test_a_cancelled_call_makes_room_in_the_batch(loaded, serving):
    """A batch of size 1: one call is cancelled after its first delta, and the waiting one is answered."""
    labels = {"kind": "generation_abandoned"}
    before = REGISTRY.get_sample_value("fovea_failures_total", labels) or 0
    async with serving(loaded(max_batch_size=1)) as client:
        call = client.stub.Generate(generate(max_tokens=240), timeout=60)
        assert (await call.read()).delta.text
        waiting = asyncio.create_task(client.ask(generate(max_tokens=2)))
        call.cancel()
        answer = await waiting
    assert answer.done.completion_tokens == 2
    assert REGISTRY.get_sample_value("fovea_failures_total", labels) == before + 1


async def test_a_deadline_passes_and_the_next_call_is_answered(loaded, serving):
    async with serving(loaded(max_batch_size=2, max_batch_delay_ms=60_000)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.ask(generate(), timeout=0.05)  # the engine waits for a second request
        assert isinstance(from_rpc_error(caught.value, "LLM service"), DeadlineExceeded)
        answers = await asyncio.gather(*(client.ask(generate(max_tokens=2)) for _ in range(2)))
    assert [answer.done.completion_tokens for answer in answers] == [2, 2]


async def test_a_full_queue_is_resource_exhausted(loaded, serving):
    """An idle engine waits for a batch of 8 while the queue has room for 1: of two calls, one is refused."""
    async with serving(loaded(max_batch_size=8, max_batch_delay_ms=60_000, max_queue_size=1)) as client:
        calls = [asyncio.create_task(client.ask(generate())) for _ in range(2)]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        error = from_rpc_error(done.pop().exception(), "LLM service")
        waiting.pop().cancel()
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 1


async def test_hostile_requests_are_refused_and_the_next_is_answered(loaded, serving, visual_tokens):
    model = loaded()
    fingerprint = model.limits.fingerprint

    def tokens(**changes):
        message = visual_tokens(fingerprint)
        for name, value in changes.items():
            setattr(message.features, name, value)
        return message

    def pruned(budget, **params):
        request = generate((BOS, IMAGE, 60), [visual_tokens(fingerprint)])
        request.llm_pruner.CopyFrom(llm_pb2.LlmPruner(name="adaptprune", **budget))
        request.llm_pruner.params.update(params)
        return request

    def observed(layer):
        request = generate((BOS, IMAGE, 60), [visual_tokens(fingerprint)])
        request.cross_attention.layer = layer
        return request

    nan = np.full((5, 32), np.nan, "<f4").tobytes()
    huge = visual_tokens(fingerprint)
    huge.features.shape[:] = [2**31, 32]
    packed = tensors.to_message(np.ones((5, 32), np.float32), tensor_pb2.DTYPE_INT4, packing="packed")
    without_scales = packed.data[:8] + packed.data[18:]
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packed.data[:1] + b"\1" + packed.data[2:18] + coder.compress(bytes(20_000_000)) + coder.flush()
    integers = [
        tokens(dtype=tensor_pb2.DTYPE_INT4, data=data, crc32=zlib.crc32(data)) for data in (without_scales, bomb)
    ]
    outside = visual_tokens(fingerprint)
    outside.positions[-1] = 2**32 - 1
    hostile = [
        *((generate((BOS, IMAGE), [message]), InvalidRequest) for message in (*integers, outside)),
        (generate((BOS, IMAGE), [tokens(data=nan)]), InvalidRequest),
        (generate((BOS, IMAGE), [tokens(crc32=7)]), InvalidRequest),
        (generate((BOS, IMAGE), [huge]), InvalidRequest),
        (generate((BOS, IMAGE, IMAGE), [tokens()]), InvalidRequest),
        (generate((BOS, 288)), InvalidRequest),
        (generate((BOS, IMAGE), [visual_tokens("another")]), CheckpointMismatch),
        (generate((BOS, IMAGE), [visual_tokens(fingerprint, np.full((2, 32), 3e38, np.float32))]), InvalidRequest),
        (llm_pb2.GenerateRequest(input_ids=[60], cache_salt="x" * 129), InvalidRequest),
        (generate(max_tokens=0), InvalidRequest),
        (generate(max_tokens=2049), InvalidRequest),
        (generate(temperature=float("nan")), InvalidRequest),
        (generate(temperature=float("inf")), InvalidRequest),
        (generate(temperature=-1.0), InvalidRequest),
        (generate(top_p=float("nan")), InvalidRequest),
        (generate(top_p=-0.5), InvalidRequest),
        (generate(stop=[""]), InvalidRequest),
        (generate(stop=["x" * 257]), InvalidRequest),
        (generate(stop=["x"] * 9), InvalidRequest),
        (generate((2**32 - 1,)), InvalidRequest),
        (pruned({"keep_ratio": float("nan")}), InvalidRequest),
        (pruned({"keep_tokens": 0}), InvalidRequest),
        (pruned({"keep_tokens": 2}, radius=float("nan")), InvalidRequest),
        (pruned({"keep_tokens": 2}, radius=float("inf")), InvalidRequest),
        (pruned({"keep_tokens": 2}, radius=-1), InvalidRequest),
        (observed(2**32 - 1), InvalidRequest),
    ]
    async with serving(model) as client:
        expected = (await client.ask(generate((BOS, IMAGE), [tokens()], max_tokens=5))).text
        for request, kind in hostile:
            error = await error_of(client, request)
            assert type(error) is kind
            assert error.param
            assert (await client.ask(generate((BOS, IMAGE), [tokens()], max_tokens=5))).text == expected


async def test_visual_tokens_count_against_the_bytes_in_flight(loaded, serving, visual_tokens):
    """A small message can decode to large features, so their bytes are counted before decoding."""
    model = loaded(max_batch_size=2, max_batch_delay_ms=60_000)
    request = generate((BOS, IMAGE), [visual_tokens(model.limits.fingerprint, count=12)], max_tokens=2)
    message, features = 2 * request.ByteSize(), 12 * 32 * 4
    async with serving(model, max_bytes_in_flight=2 * message + features + features // 2) as client:
        first = asyncio.create_task(client.ask(request))
        while not model.engine.num_waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        error = await error_of(client, request)  # there is room for its message, but not for its visual tokens
        assert isinstance(error, Overloaded)
        assert error.retry_after_s == 1
        for call in (first, client.ask(request)):  # the second call has room once the first is done
            answers = await asyncio.gather(call, client.ask(generate(max_tokens=2)))
            assert [answer.done.completion_tokens for answer in answers] == [2, 2]


async def test_the_error_of_a_prompt_beyond_the_context_names_the_surplus(loaded, serving):
    async with serving(loaded()) as client:
        error = await error_of(client, generate([BOS] * 300))
        cut = await client.ask(generate([BOS] * 250))
    assert isinstance(error, InvalidRequest)
    assert "300 tokens, visual tokens included, 45 more than the 255 that the model's context of 256" in error.message
    assert cut.done.finish_reason == "length"
    assert cut.done.completion_tokens == 6


async def test_the_model_describes_itself(loaded, serving, checkpoint):
    async with serving(loaded(served_model_name="tiny", max_tokens=77)) as client:
        info = await client.stub.GetModelInfo(llm_pb2.GetLLMInfoRequest())
    assert (info.model, info.family, info.engine) == ("tiny", "llava", "transformers")
    assert (info.max_model_len, info.vocab_size, info.image_token_id) == (256, 288, IMAGE)
    assert (info.visual_hidden_size, info.max_tokens) == (32, 77)
    assert list(info.sampling_parameters) == [field.name for field in fields(SamplingParams)]
    assert set(info.sampling_parameters) == set(llm_pb2.SamplingParams.DESCRIPTOR.fields_by_name)
    assert info.fingerprint == client.model.limits.fingerprint
    other = loaded(dtype="bfloat16").settings_fingerprint
    assert len(info.settings_fingerprint) == len(other) == 16
    assert info.settings_fingerprint != other
    assert loaded().name == checkpoint.name


async def test_calls_before_the_model_is_loaded_are_unavailable():
    server = GrpcServer(ServerConfig("127.0.0.1:0", max_message_bytes=2**20, max_concurrent_rpcs=8), services=[])
    servicer = LLMServicer(LLMSettings(model=""), server)
    with pytest.raises(Unavailable, match="is loading its model"):
        await anext(servicer.Generate(generate(), None))
    with pytest.raises(Unavailable, match="is loading its model"):
        await servicer.GetModelInfo(llm_pb2.GetLLMInfoRequest(), None)
