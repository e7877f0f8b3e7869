"""Outages of a service: the client's view, and what is computed again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fovea.errors import ServiceError, Unavailable
from fovea.rpc.server import GrpcServer
from fovea.v1 import llm_pb2
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, failures
from tests.unit.gateway.services import ScriptedLLM, serve

DONE = llm_pb2.GenerateResponse(
    done=llm_pb2.Done(finish_reason="stop", prompt_tokens=9, completion_tokens=3, timing=llm_pb2.GenerateTiming())
)


Script = list[str | llm_pb2.Delta | ServiceError]


class Breaking(ScriptedLLM):
    """LLM service that plays one script of deltas and errors a call, and repeats the last one."""

    def __init__(self, *scripts: Script) -> None:
        super().__init__()
        self._scripts = list(scripts)

    async def Generate(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        self.calls.append(request)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        for step in script:
            if isinstance(step, ServiceError):
                raise step
            yield llm_pb2.GenerateResponse(delta=llm_pb2.Delta(text=step) if isinstance(step, str) else step)
        yield DONE


BREAK = Unavailable("the link is gone")


StartBreaking = Callable[..., Awaitable[tuple[Gateway, Breaking, GrpcServer]]]


@pytest.fixture
async def breaking(start_gateway: StartGateway) -> AsyncIterator[StartBreaking]:
    """Function that starts a gateway in front of a service with the given scripts."""
    async with AsyncExitStack() as stack:

        async def start(*scripts: Script, **settings: Any) -> tuple[Gateway, Breaking, GrpcServer]:
            llm = Breaking(*scripts)
            server = await serve(llm)
            stack.push_async_callback(server.grpc.stop, 0)
            return await start_gateway(llm=f"127.0.0.1:{server.port}", **settings), llm, server

        yield start


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    frames = [frame.split("\n") for frame in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in frames]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}, {"temperature": 0.7, "seed": 3}])
async def test_a_broken_stream_continues_without_repeating_text(
    breaking: StartBreaking, sampling: dict[str, Any]
) -> None:
    gateway, llm, _ = await breaking(
        ["red", " and", BREAK], [BREAK], ["r", "ed and", " blue", BREAK], ["red and blue", " stars"]
    )
    before = failures("outage")
    response = await gateway.http.post("/v1/answer", json=ask(stream=True, **sampling))
    names, data = zip(*events(response.text), strict=True)
    assert names == ("token", "token", "token", "token", "done")
    assert [event["text"] for event in data[:-1]] == ["red", " and", " blue", " stars"]
    assert data[-1]["answer"] == "red and blue stars"
    assert len(gateway.encoder.calls) == 1  # the image was encoded once
    assert len(llm.calls) == 4
    assert len({call.SerializeToString() for call in llm.calls}) == 1  # with the same tokens and seed
    assert llm.calls[0].sampling.HasField("seed") == bool(sampling)
    assert failures("outage") - before == 3
    shipped = sum(tokens.ByteSize() for call in llm.calls for tokens in call.visual_tokens)
    assert data[-1]["usage"]["wire_bytes"] == shipped


async def test_a_retry_with_another_text_ends_the_answer(breaking: StartBreaking) -> None:
    gateway, llm, _ = await breaking(["red", BREAK], ["green"])
    response = await gateway.http.post("/v1/answer", json=ask(stream=True))
    (first, text), (last, error) = events(response.text)
    assert (first, text["text"], last) == ("token", "red", "error")
    assert "came out differently" in error["error"]["message"]
    assert len(llm.calls) == 2


async def test_a_retry_with_a_shorter_text_ends_the_answer(breaking: StartBreaking) -> None:
    gateway, _, _ = await breaking(["red star", BREAK], ["red"])
    response = await gateway.http.post("/v1/answer", json=ask(stream=True))
    assert [name for name, _ in events(response.text)] == ["token", "error"]


async def test_a_request_without_progress_ends_after_six_attempts(breaking: StartBreaking) -> None:
    gateway, llm, _ = await breaking(["red", BREAK], patience_s=3600.0)
    error = await gateway.refused(503)
    assert error["message"] == "the link is gone"
    assert len(llm.calls) == 6
    assert len(gateway.encoder.calls) == 1


async def test_without_an_outage_timeout_there_is_no_retry(breaking: StartBreaking) -> None:
    gateway, llm, _ = await breaking([BREAK], patience_s=0.0)
    await gateway.refused(503)
    assert len(llm.calls) == 1


async def test_an_answer_waits_for_a_service_that_comes_back(breaking: StartBreaking) -> None:
    gateway, llm, server = await breaking(["red"], patience_s=3600.0)
    await gateway.answer(question="Is it there?")
    await server.grpc.stop(0)
    before = failures("outage")
    answer = asyncio.create_task(gateway.answer())
    async with asyncio.timeout(60):
        while len(gateway.encoder.calls) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    again = await serve(llm, port=server.port)
    assert (await answer)["answer"] == "red"
    assert failures("outage") > before
    assert len(gateway.encoder.calls) == 2
    await again.grpc.stop(0)


async def test_a_deadline_that_passes_during_an_outage_is_a_504_that_names_the_service(breaking: StartBreaking) -> None:
    gateway, _, server = await breaking(["red"], patience_s=3600.0)
    await gateway.answer(question="Is it there?")
    await server.grpc.stop(0)
    error = await gateway.refused(504, timeout_s=0.5)
    assert error["message"] == "the LLM service was unavailable until timeout_s had passed"


async def test_an_outage_of_the_encoder_is_waited_for(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(patience_s=3600.0)
    await gateway.answer(question="Is it there?")
    gateway.encoder.error = Unavailable("draining")
    calls = len(gateway.encoder.calls)
    answer = asyncio.create_task(gateway.answer())
    async with asyncio.timeout(60):
        while len(gateway.encoder.calls) < calls + 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    gateway.encoder.error = None
    assert (await answer)["answer"].startswith("red ")


async def test_maps_wait_for_the_language_model_as_answers_do(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(patience_s=3600.0)
    gateway.llm.error = Unavailable("draining")
    maps = asyncio.create_task(gateway.http.post("/v1/explain", json=ask(maps=True, format="json")))
    async with asyncio.timeout(60):
        while len(gateway.llm.calls) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    gateway.llm.error = None
    response = await maps
    assert response.status_code == 200
    assert response.json()["maps"]["cross_attention"]
