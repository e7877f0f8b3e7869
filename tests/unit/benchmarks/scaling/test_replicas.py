from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect

from benchmarks.scaling.clients import RequestShape, closed_loop, jpeg_files, open_loop
from benchmarks.scaling.deployment import Shape
from benchmarks.scaling.replicas import SCENARIOS, arrival_times
from benchmarks.scaling.replicas_report import markdown, ratio


class Gateway:
    """A gateway that gives every answer its full length, and counts concurrent requests."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.post("/v1/answer")(self.answer)
        self.most_at_once = self.now = 0
        self.requests: list[tuple[int, int]] = []  # different images, and images

    async def answer(self, request: Request) -> Any:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            async with request.form() as form:
                files = form.getlist("image") + form.getlist("images")
                different = {await file.read() for file in files if not isinstance(file, str)}
                self.requests.append((len(different), len(files)))
                return {"usage": {"completion_tokens": int(str(form["max_tokens"]))}}
        except ClientDisconnect:
            return None
        finally:
            self.now -= 1


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[Gateway, str]]:
    scripted = Gateway()
    server = uvicorn.Server(uvicorn.Config(scripted.app, port=0, log_config=None))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    running = asyncio.create_task(server.main_loop())
    yield scripted, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await running
    await server.shutdown()


async def test_each_client_has_one_request_at_a_time(gateway: tuple[Gateway, str]) -> None:
    scripted, url = gateway
    load = await closed_loop(url, RequestShape(2, (1,)), jpeg_files(8), clients=3, warm_up_s=0.1, window_s=0.5)
    assert load.finished == len(load.seconds) > 3
    assert load.per_second == pytest.approx(load.finished / 0.5)
    assert scripted.most_at_once <= 3
    assert set(scripted.requests) == {(2, 2)}  # two different images


async def test_an_arrival_does_not_wait_for_other_answers(gateway: tuple[Gateway, str]) -> None:
    load = await open_loop(gateway[1], RequestShape(1, (4, 8)), jpeg_files(4), arrivals=[0.0] * 10)
    assert load.finished == 10


async def test_a_run_with_an_answer_that_failed_is_no_run() -> None:
    with pytest.raises(httpx.ConnectError):
        await open_loop("http://127.0.0.1:9", RequestShape(1, (1,)), jpeg_files(1), arrivals=[0.0])


def test_arrivals_are_as_many_as_the_rate_says_and_the_same_for_a_seed() -> None:
    times = arrival_times(50, 100, seed=1)
    assert times == sorted(times) == arrival_times(50, 100, seed=1)
    assert times[-1] == pytest.approx(100, rel=0.05)


def test_rates_grow_with_the_replicas_of_the_bottleneck_alone() -> None:
    encoder, llm = SCENARIOS["encoder"], SCENARIOS["llm"]
    assert encoder.rate(Shape(2, 1)) == 2 * encoder.rate(Shape(1, 2)) == 2 * encoder.rate(Shape(1, 1))
    assert llm.rate(Shape(1, 2)) == 2 * llm.rate(Shape(2, 1)) == 2 * llm.rate(Shape(1, 1))


@pytest.mark.parametrize("name", SCENARIOS)
def test_caps_leave_room_for_gateway_and_clients_on_two_cores(name: str) -> None:
    scenario = SCENARIOS[name]
    assert 2 * scenario.encoder_cores + 2 * scenario.llm_cores <= 1.6


def _cell(shape: str, number: int, per_second: float) -> dict[str, Any]:
    cpu = {"encoder 1": 3.0, "encoder 2": 1.5, "llm 1": 1.0, "llm 2": 0.0, "gateway": 0.5, "clients": 0.5, "wall": 10}
    return {
        "shape": shape,
        "round": number,
        "finished": 10,
        "per_second": per_second,
        "seconds": [1.0, 2.0, 3.0],
        "cpu_s": cpu,
    }


def test_a_report_says_what_a_replica_gained_and_what_was_busy() -> None:
    scenario = {"name": "encoder", **json.loads(json.dumps(SCENARIOS["encoder"], default=vars))}
    result = {
        "provenance": {"command": "x", "commit": "c", "date": "d", "machine": {"processor": "P", "cores": 2}},
        "scenario": scenario,
        "caps": {"by": "quota", "wanted": 0.3, "two_busy_threads_got": 0.3},
        "closed_loop": [_cell("1x1", 0, 2.0), _cell("2x1", 0, 4.0), _cell("1x1", 1, 4.0), _cell("2x1", 1, 6.0)],
        "below_capacity": [{"rate": 1.0, **_cell("1x1", 0, 1.0)}],
    }
    assert ratio(result, "2x1").mean == pytest.approx(10 / 6)
    report = markdown(result)
    assert "| 2x1 | 5.00 | 4.00 to 6.00 | 1.67 [1.50, 2.00] | 2.00 | 100 % |" in report
