"""Clients of services that are overloaded, unavailable or unresponsive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fovea.budget import Budget
from fovea.errors import InternalError, Overloaded, ServiceError, TooLarge, Unavailable
from fovea.rpc.server import GrpcServer
from fovea.v1 import encoder_pb2
from gateway.clients import base
from gateway.clients.base import INFO_RETRY_S, INFO_TTL_S, ServiceClient
from gateway.clients.encoder import EncoderClient, EncodeResult
from gateway.clients.llm import LLMClient
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import GenerateSpec, Sampling
from gateway.core.text_delta import TextDelta
from gateway.media.files import MediaFile
from tests.clock import Clock
from tests.unit.gateway.conftest import png
from tests.unit.gateway.services import ScriptedEncoder, ScriptedLLM, serve

SPEC = EncodeSpec(
    images=(MediaFile.of(png()),), text_ids=(1, 2), pruner="desap", budget=Budget.count(3), wire_dtype="float16"
)


Start = Callable[..., Awaitable[tuple[GrpcServer, Any]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a service, and a client of it; both end with the test."""
    async with AsyncExitStack() as started:

        async def start(
            servicer: ScriptedEncoder | ScriptedLLM, client: type[ServiceClient[Any]] = EncoderClient, **options: Any
        ) -> tuple[GrpcServer, Any]:
            server = await serve(servicer)
            started.push_async_callback(server.grpc.stop, 0)
            called = client(f"127.0.0.1:{server.port}", max_message_bytes=2**20, **options)
            started.push_async_callback(called.close)
            return server, called

        yield start


@pytest.fixture
async def encoder() -> AsyncIterator[tuple[ScriptedEncoder, str]]:
    servicer = ScriptedEncoder()
    server = await serve(servicer, max_concurrent_rpcs=1)
    yield servicer, f"127.0.0.1:{server.port}"
    await server.grpc.stop(0)


async def test_a_service_with_all_calls_in_progress_is_overloaded(encoder: tuple[ScriptedEncoder, str]) -> None:
    servicer, target = encoder
    servicer.gate.shut()
    client = EncoderClient(target, max_message_bytes=2**20)
    calls = [asyncio.create_task(client.encode(SPEC, None, 30)) for _ in range(2)]
    (refused,), (accepted,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(Overloaded, match="as many calls in progress as it accepts") as caught:
        refused.result()
    assert caught.value.retry_after_s == 1
    servicer.gate.open()
    assert (await accepted).num_tokens_kept == 3
    await client.close()


async def test_a_message_above_the_cap_is_too_large(encoder: tuple[ScriptedEncoder, str]) -> None:
    client = EncoderClient(encoder[1], max_message_bytes=10)
    with pytest.raises(TooLarge, match="larger than it accepts"):
        await client.encode(SPEC, None, 30)
    await client.close()


async def test_info_is_refreshed_after_its_ttl_and_kept_during_an_outage(start: Start) -> None:
    servicer, clock = ScriptedEncoder(), Clock(0.0)
    server, client = await start(servicer, clock=clock)
    assert (await client.info()).fingerprint == "aaaa"
    servicer.info.fingerprint = "bbbb"
    clock.now = INFO_TTL_S - 0.1
    assert (await client.info()).fingerprint == "aaaa"
    clock.now = INFO_TTL_S
    assert (await client.info()).fingerprint == "bbbb"
    await server.grpc.stop(0)
    clock.now = 2 * INFO_TTL_S
    assert (await client.info()).fingerprint == "bbbb"


async def test_a_service_that_was_seen_away_is_asked_for_its_info_when_it_is_back(start: Start) -> None:
    servicer, clock = ScriptedEncoder(), Clock(0.0)
    server, client = await start(servicer, clock=clock)
    assert (await client.info()).fingerprint == "aaaa"
    servicer.info.fingerprint = "bbbb"
    assert await client.serving(10)
    assert (await client.info()).fingerprint == "aaaa"
    await server.report_serving(False)
    assert not await client.serving(10)
    await server.report_serving(True)
    assert await client.serving(10)
    assert (await client.info()).fingerprint == "bbbb"


async def test_a_service_that_failed_is_asked_for_its_info_when_it_is_seen_to_serve(start: Start) -> None:
    """A request during the outage has failed to read the info, and the old one is still there."""
    servicer, clock = ScriptedEncoder(), Clock(0.0)
    _, client = await start(servicer, clock=clock)
    await client.info()
    servicer.info_error = InternalError("starting")
    clock.now = INFO_TTL_S
    await client.info()
    servicer.info_error, servicer.info.fingerprint = None, "bbbb"
    assert await client.serving(10)
    assert (await client.info()).fingerprint == "bbbb"


async def test_concurrent_callers_share_one_info_call(start: Start) -> None:
    servicer, clock = ScriptedEncoder(), Clock(0.0)
    servicer.info_gate.shut()
    _, client = await start(servicer, clock=clock)
    asking = [asyncio.create_task(client.info()) for _ in range(64)]
    await servicer.info_gate.reached.wait()
    servicer.info_gate.open()
    assert {info.fingerprint for info in await asyncio.gather(*asking)} == {"aaaa"}
    assert servicer.info_calls == 1


async def test_an_outage_writes_a_line_an_interval_and_not_one_for_each_request(
    start: Start,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock(0.0)
    server, client = await start(ScriptedEncoder(), clock=clock)
    await server.grpc.stop(0)

    async def fail() -> None:
        with pytest.raises(Unavailable):
            await client.encode(SPEC, None, 30)

    for _ in range(5):
        await fail()
    clock.now = 10.0
    await fail()
    first, second = caplog.messages
    assert first.startswith("the encoder service is unavailable: ")
    assert second.startswith("the encoder service is unavailable: ")
    assert second.endswith(" (4 more since the last such line)")


async def test_an_unresponsive_service_gets_one_call_while_its_last_info_is_used(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servicer, clock = ScriptedEncoder(), Clock(0.0)
    _, client = await start(servicer, clock=clock)
    await client.info()
    servicer.info_gate.shut()
    clock.now = INFO_TTL_S
    answers = await asyncio.gather(*(client.info() for _ in range(64)))
    assert {info.fingerprint for info in answers} == {"aaaa"}
    monkeypatch.setattr(base, "_INFO_WAIT_S", 3600.0)
    async with asyncio.timeout(10):
        assert (await client.info()).fingerprint == "aaaa"  # not waited for again
    assert servicer.info_calls == 2
    servicer.info.fingerprint = "bbbb"
    servicer.info_gate.open()
    async with asyncio.timeout(10):
        while (await client.info()).fingerprint == "aaaa":  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert servicer.info_calls == 2


async def test_the_info_of_a_failed_service_is_refreshed_after_a_second(start: Start) -> None:
    servicer, clock = ScriptedEncoder(), Clock(0.0)
    _, client = await start(servicer, clock=clock)
    await client.info()
    servicer.info_error = InternalError("defect")
    clock.now = INFO_TTL_S
    for _ in range(5):
        await client.info()
    assert servicer.info_calls == 2
    clock.now += INFO_RETRY_S
    await client.info()
    async with asyncio.timeout(10):
        while servicer.info_calls < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_failed_call_invalidates_the_info(start: Start) -> None:
    servicer = ScriptedEncoder()
    _, client = await start(servicer, clock=Clock(0.0))
    await client.info()
    servicer.error = Unavailable("draining")
    with pytest.raises(ServiceError, match="draining"):
        await client.encode(SPEC, None, 30)
    servicer.info.fingerprint = "bbbb"
    assert (await client.info()).fingerprint == "bbbb"


async def test_closing_a_generation_between_two_texts_cancels_the_call(start: Start) -> None:
    servicer = ScriptedLLM()
    servicer.gate.shut()
    _, client = await start(servicer, LLMClient)
    visual_tokens = encoder_pb2.EncodeResponse()
    visual_tokens.visual_tokens.add(positions=[0])
    generation = client.generate(
        GenerateSpec(input_ids=(1,), sampling=Sampling(max_tokens=4)), EncodeResult(visual_tokens), 30
    )
    assert await anext(generation) == TextDelta("red")
    await servicer.gate.reached.wait()
    await generation.aclose()
    async with asyncio.timeout(10):
        await servicer.cancelled.wait()
