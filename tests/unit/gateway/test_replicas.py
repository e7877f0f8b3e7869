"""Several replicas of a service behind one target."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fovea.errors import Overloaded
from fovea.rpc.server import GrpcServer
from tests.unit.gateway.conftest import Gateway, StartGateway, ask
from tests.unit.gateway.services import ScriptedEncoder, ScriptedLLM, serve

Replicas = tuple[list[ScriptedEncoder], list[GrpcServer]]


@pytest.fixture
async def encoders() -> AsyncIterator[Replicas]:
    servicers = [ScriptedEncoder(), ScriptedEncoder()]
    servers = [await serve(servicer) for servicer in servicers]
    yield servicers, servers
    await asyncio.gather(*(server.grpc.stop(0) for server in servers))


def target(servers: list[GrpcServer]) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


async def until_both_work(gateway: Gateway, replicas: list[ScriptedEncoder] | list[ScriptedLLM]) -> None:
    """Returns when both replicas get calls; the connections of a channel open one by one."""
    shade = 0
    async with asyncio.timeout(30):
        while not all(replica.calls for replica in replicas):
            await gateway.answer(shade=shade % 256, cache="bypass")
            shade += 1
    for replica in replicas:
        replica.calls.clear()


async def test_replicas_take_turns(start_gateway: StartGateway, encoders: Replicas) -> None:
    servicers, servers = encoders
    gateway = await start_gateway(encoder=target(servers))
    await until_both_work(gateway, servicers)
    for shade in range(10):
        await gateway.answer(shade=shade, cache="bypass")
    assert sorted(len(servicer.calls) for servicer in servicers) in ([4, 6], [5, 5])  # info calls count too


async def test_llm_services_take_turns(start_gateway: StartGateway) -> None:
    servicers = [ScriptedLLM(), ScriptedLLM()]
    servers = [await serve(servicer) for servicer in servicers]
    gateway = await start_gateway(llm=target(servers))
    await until_both_work(gateway, servicers)
    await asyncio.gather(*(gateway.answer(shade=shade, cache="bypass") for shade in range(10)))
    assert sorted(len(servicer.calls) for servicer in servicers) in ([4, 6], [5, 5])
    await asyncio.gather(*(server.grpc.stop(0) for server in servers))


async def test_no_answer_is_lost_when_one_replica_dies(start_gateway: StartGateway, encoders: Replicas) -> None:
    servicers, servers = encoders
    gateway = await start_gateway(encoder=target(servers))
    await until_both_work(gateway, servicers)
    for servicer in servicers:
        servicer.gate.shut()
    tasks = [asyncio.create_task(gateway.answer(shade=shade, cache="bypass")) for shade in range(4)]
    await asyncio.gather(*(servicer.gate.reached.wait() for servicer in servicers))
    await servers[0].grpc.stop(0)  # with calls in progress
    servicers[1].gate.open()
    answers = await asyncio.gather(*tasks)
    assert len({answer["answer"] for answer in answers}) == 4
    for shade in range(6):
        await gateway.answer(shade=shade, cache="bypass")
    assert len(servicers[1].calls) == 4 + 6
    assert (await gateway.http.get("/readyz")).status_code == 200


async def test_a_replica_that_comes_back_gets_work_again(start_gateway: StartGateway, encoders: Replicas) -> None:
    servicers, servers = encoders
    gateway = await start_gateway(encoder=target(servers))
    await until_both_work(gateway, servicers)
    port = servers[0].port
    await servers[0].grpc.stop(0)
    await gateway.answer(cache="bypass")
    servers[0] = await serve(servicers[0], port=port)
    await until_both_work(gateway, servicers)


OVERLOADED = Overloaded("the queue is full", retry_after_s=7.0)


async def test_what_one_encoder_refuses_another_computes(start_gateway: StartGateway, encoders: Replicas) -> None:
    servicers, servers = encoders
    gateway = await start_gateway(encoder=target(servers))
    await until_both_work(gateway, servicers)
    servicers[0].error = OVERLOADED
    for shade in range(24):
        await gateway.answer(shade=shade, cache="bypass")
    images = [[bytes(call.images[0]) for call in servicer.calls] for servicer in servicers]
    assert images[0], "the full replica was never called"
    assert len(images[1]) == len(set(images[1])) == 24
    assert len(images[0]) == len(set(images[0])), "a message was received twice by the replica that refused it"


async def test_concurrent_requests_reach_the_free_replica_too(start_gateway: StartGateway, encoders: Replicas) -> None:
    servicers, servers = encoders
    gateway = await start_gateway(encoder=target(servers))
    await until_both_work(gateway, servicers)
    servicers[0].error = OVERLOADED
    requests = (gateway.http.post("/v1/answer", json=ask(shade=shade, cache="bypass")) for shade in range(48))
    responses = await asyncio.gather(*requests)
    # Chance decides which replica a call reaches: one in 128 of the refused ones meets the full replica eight times.
    assert sum(response.status_code != 200 for response in responses) <= 3
    for servicer in servicers:
        images = [bytes(call.images[0]) for call in servicer.calls]
        assert len(images) == len(set(images))


async def test_what_one_llm_service_refuses_another_generates(start_gateway: StartGateway) -> None:
    servicers = [ScriptedLLM(), ScriptedLLM()]
    servers = [await serve(servicer) for servicer in servicers]
    gateway = await start_gateway(llm=target(servers))
    await until_both_work(gateway, servicers)
    servicers[0].error = OVERLOADED
    for shade in range(24):
        await gateway.answer(shade=shade, cache="bypass")
    prompts = [[call.visual_tokens[0].SerializeToString() for call in servicer.calls] for servicer in servicers]
    assert prompts[0], "the full replica was never called"
    assert len(prompts[1]) == len(set(prompts[1])) == 24
    assert len(prompts[0]) == len(set(prompts[0]))
    await asyncio.gather(*(server.grpc.stop(0) for server in servers))


async def test_two_full_replicas_are_each_tried_once_and_the_sooner_one_is_named(
    start_gateway: StartGateway, encoders: Replicas
) -> None:
    servicers, servers = encoders
    gateway = await start_gateway(encoder=target(servers))
    await until_both_work(gateway, servicers)
    for servicer, retry_after_s in zip(servicers, (7.0, 3.0), strict=True):
        servicer.error = Overloaded("the queue is full", retry_after_s=retry_after_s)
    both = 0
    for shade in range(12):
        response = await gateway.http.post("/v1/answer", json=ask(shade=shade, cache="bypass"))
        assert response.status_code == 429
        counts = [len(servicer.calls) for servicer in servicers]
        assert max(counts) == 1
        if counts == [1, 1]:
            both += 1
            assert response.headers["Retry-After"] == "3"
        for servicer in servicers:
            servicer.calls.clear()
    assert both


async def test_a_single_replica_is_not_called_again(start_gateway: StartGateway, encoders: Replicas) -> None:
    servicers, servers = encoders
    gateway = await start_gateway(encoder=f"127.0.0.1:{servers[0].port}")
    servicers[0].error = OVERLOADED
    response = await gateway.http.post("/v1/answer", json=ask(cache="bypass"))
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "7"
    assert len(servicers[0].calls) == 1
