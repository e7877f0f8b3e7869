"""`llm_pruner` over real gRPC: requests, errors and descriptions."""

from __future__ import annotations

import asyncio

import grpc.aio
import numpy as np
import pytest
from google.protobuf import struct_pb2

from fovea.errors import InvalidRequest, NotFound, from_rpc_error
from fovea.v1 import llm_pb2
from llm_service.pruners import PRUNERS

BOS, IMAGE = 1, 4


def pruner(name, params=None, **budget):
    message = struct_pb2.Struct()
    message.update(params or {})
    return llm_pb2.LlmPruner(name=name, params=message, **budget)


@pytest.fixture
async def client(loaded, serving, deep_checkpoint):
    async with serving(loaded(deep_checkpoint, max_batch_delay_ms=0)) as client:
        yield client


@pytest.fixture
def generate(client, visual_tokens):
    def make(llm_pruner=None, *, count=16, max_tokens=12):
        features = np.random.default_rng(0).standard_normal((count, 32), dtype=np.float32)
        return llm_pb2.GenerateRequest(
            input_ids=[BOS, IMAGE, 70, 71],
            visual_tokens=[visual_tokens(client.model.limits.fingerprint, features)],
            sampling=llm_pb2.SamplingParams(max_tokens=max_tokens),
            llm_pruner=llm_pruner,
        )

    return make


async def error_of(client, request):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.ask(request)
    return from_rpc_error(caught.value, "LLM service")


async def test_answers_of_concurrent_methods_are_those_of_single_requests(client, generate):
    requests = [generate(pruner(name, keep_tokens=5)) for name in PRUNERS] + [generate()]
    alone = [await client.ask(request) for request in requests]
    together = await asyncio.gather(*(client.ask(request) for request in requests))
    assert [answer.deltas for answer in together] == [answer.deltas for answer in alone]
    for answer in together[:-1]:
        assert answer.done.prompt_tokens == 19
        assert answer.done.visual_tokens_by_layer[0] == 16
        assert min(answer.done.visual_tokens_by_layer) <= 5
    assert list(together[-1].done.visual_tokens_by_layer) == []


async def test_a_ratio_is_a_budget_too(client, generate):
    by_count, by_ratio = [
        await client.ask(generate(pruner("fastv", **budget))) for budget in ({"keep_tokens": 4}, {"keep_ratio": 0.25})
    ]
    assert by_count.text == by_ratio.text
    assert set(by_count.done.visual_tokens_by_layer) == {16, 4}


async def test_a_parameter_arrives(client, generate):
    early, late = [await client.ask(generate(pruner("fastv", {"layer": layer}, keep_tokens=4))) for layer in (2, 16)]
    assert list(early.done.visual_tokens_by_layer) == [16] + [4] * 11
    assert list(late.done.visual_tokens_by_layer) == [16] * 6 + [4] * 6


@pytest.mark.parametrize(
    ("message", "kind", "param", "text"),
    [
        (pruner("fastvv", keep_tokens=4), NotFound, "llm_pruner.name", "accepted: fastv, sparsevlm, sparsevlm_plus"),
        (pruner("", keep_tokens=4), NotFound, "llm_pruner.name", "there is no LLM pruner ''"),
        (pruner("fastv", {"k": 2}, keep_tokens=4), InvalidRequest, "llm_pruner.params", "accepted: counting, layer"),
        (pruner("fastv", {"layer": 0}, keep_tokens=4), InvalidRequest, "llm_pruner.params", "1 to 31"),
        (pruner("fastv", {"layer": True}, keep_tokens=4), InvalidRequest, "llm_pruner.params", "1 to 31"),
        (pruner("fastv", {"layer": float("nan")}, keep_tokens=4), InvalidRequest, "llm_pruner.params", "fastv"),
        (pruner("fastv", {"layer": "x" * 100_000}, keep_tokens=4), InvalidRequest, "llm_pruner.params", "1 to 31"),
        (pruner("y" * 100_000, keep_tokens=4), NotFound, "llm_pruner.name", "accepted: fastv"),
        (pruner("fastv", {"fidelity": "yes"}, keep_tokens=4), InvalidRequest, "llm_pruner.params", "true or false"),
        (pruner("v2drop", {"counting": "mean"}, keep_tokens=4), InvalidRequest, "llm_pruner.params", "own, average"),
        (pruner("adaptprune", {"radius": "wide"}, keep_tokens=4), InvalidRequest, "llm_pruner.params", "0 to 1000"),
        (pruner("fastv"), InvalidRequest, "llm_pruner", "keep_tokens or keep_ratio"),
        (pruner("fastv", keep_tokens=0), InvalidRequest, "llm_pruner.keep_tokens", "at least 1"),
        (pruner("fastv", keep_ratio=0), InvalidRequest, "llm_pruner.keep_ratio", "(0, 1]"),
        (pruner("fastv", keep_ratio=float("nan")), InvalidRequest, "llm_pruner.keep_ratio", "(0, 1]"),
        (pruner("fastv", {"counting": "average"}, keep_tokens=1), InvalidRequest, "llm_pruner", "the least accepted"),
    ],
)
async def test_errors_name_the_field_and_the_next_request_is_answered(client, generate, message, kind, param, text):
    error = await error_of(client, generate(message))
    assert type(error) is kind
    assert error.param == param
    assert text in error.message
    assert (await client.ask(generate(pruner("fastv", keep_tokens=4), max_tokens=2))).done.completion_tokens == 2


async def test_a_cancelled_call_makes_room_in_the_batch(loaded, serving, deep_checkpoint, generate):
    async with serving(loaded(deep_checkpoint, max_batch_size=1)) as client:
        call = client.stub.Generate(generate(pruner("pyramiddrop", keep_tokens=4), max_tokens=200), timeout=60)
        assert (await call.read()).delta.text
        waiting = asyncio.create_task(client.ask(generate(pruner("fastv", keep_tokens=4), max_tokens=2)))
        call.cancel()
        answer = await waiting
    assert answer.done.completion_tokens == 2


async def test_the_service_describes_its_methods_and_their_parameters(client):
    info = await client.stub.GetModelInfo(llm_pb2.GetLLMInfoRequest())
    assert list(info.llm_pruners) == list(PRUNERS)
    described = {pruner_info.name: pruner_info for pruner_info in info.llm_pruner_infos}
    assert described.keys() == PRUNERS.keys()
    assert {pruner_info.side for pruner_info in described.values()} == {"llm"}
    assert not described["v2drop"].reads_text
    parameters = {parameter.name: parameter for parameter in described["fastv"].parameters}
    assert parameters["counting"].default.string_value == "own"
    assert parameters["layer"].default.number_value == 2
    assert [parameters[name].type for name in ("counting", "layer", "fidelity")] == ["string", "integer", "boolean"]
    assert parameters["fidelity"].default.bool_value is False
    assert all(parameter.description for info in described.values() for parameter in info.parameters)


async def test_an_engine_without_methods_refuses_the_field(loaded, serving, mistral_checkpoint, visual_tokens):
    async with serving(loaded(mistral_checkpoint)) as client:
        info = await client.stub.GetModelInfo(llm_pb2.GetLLMInfoRequest())
        request = llm_pb2.GenerateRequest(
            input_ids=[BOS, IMAGE],
            visual_tokens=[visual_tokens(client.model.limits.fingerprint)],
            sampling=llm_pb2.SamplingParams(max_tokens=2),
            llm_pruner=pruner("fastv", keep_tokens=1),
        )
        error = await error_of(client, request)
    assert list(info.llm_pruners) == list(info.llm_pruner_infos) == []
    assert isinstance(error, InvalidRequest)
    assert "engine transformers cannot prune inside this language model" in error.message
