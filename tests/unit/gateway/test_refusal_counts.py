"""Each refusal for load or a limit is counted under its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import Request
from prometheus_client import REGISTRY

from fovea.api_keys.key_lines import ClientLimits
from fovea.errors import Overloaded
from fovea.rpc.bytes_in_flight import BytesInFlight
from fovea.telemetry import Refusal
from gateway.access.client_limits import ClientLimiter
from gateway.access.clients import Client
from gateway.http.admission import Admission
from gateway.http.body_arrival import BodyArrivals
from tests.unit.gateway.conftest import StartGateway, ask

MEGA = 10**6


def counts() -> dict[str, float]:
    samples = {one: REGISTRY.get_sample_value("fovea_refusals_total", {"reason": one}) or 0 for one in Refusal}
    return {reason: value for reason, value in samples.items() if value}


@pytest.fixture
def added() -> Callable[[], dict[str, float]]:
    """Refusals since the start of the test, by reason."""
    before = Counter(counts())
    return lambda: dict(Counter(counts()) - before)


class Call:
    """Context of a call that does not end."""

    def add_done_callback(self, _: Any) -> None:
        return None


def client(**limits: int) -> Client:
    return Client("alice", "", ClientLimits(**limits), has_key=True)


def test_answers_in_progress(added: Any) -> None:
    admission = Admission(8, "answers in progress")
    with ExitStack() as permits:
        for _ in range(7):
            permits.enter_context(admission.permit("a"))
        with pytest.raises(Overloaded, match="for other clients"):
            admission.check("a")
        permits.enter_context(admission.permit("b"))
        with pytest.raises(Overloaded, match="at its limit"):
            admission.check("b")
    assert added() == {"client_share": 1, "answers_running": 1}


async def test_limits_of_a_client(added: Any) -> None:
    limiter = ClientLimiter()
    one = client(requests_per_minute=1)
    async with limiter.question(one, seconds=1):
        pass
    with pytest.raises(Overloaded):
        async with limiter.question(one, seconds=1):
            pass
    two = client(concurrency=1)
    async with limiter.question(two, seconds=1):
        with pytest.raises(Overloaded):
            async with limiter.question(two, seconds=1):
                pass
    three = client(megapixels_per_minute=1)
    await limiter.spend_pixels(three, MEGA)
    with pytest.raises(Overloaded):
        await limiter.spend_pixels(three, MEGA)
    assert added() == {"client_requests": 1, "client_concurrency": 1, "client_pixels": 1}


async def test_bodies_being_read(added: Any) -> None:
    arrivals = BodyArrivals(1, timeout_s=60, min_rate=1)
    request = Request({"type": "http"})
    async with arrivals.arrival(request, "a"):
        with pytest.raises(Overloaded):
            async with arrivals.arrival(request, "b"):
                pass
    assert added() == {"bodies": 1}


async def test_bytes_of_bodies(start_gateway: StartGateway, added: Any) -> None:
    gateway = await start_gateway(max_total_body_bytes=10)
    assert (await gateway.http.post("/v1/answer", json=ask())).status_code == 429
    assert added() == {"body_bytes": 1}


def test_bytes_of_calls(added: Any) -> None:
    in_flight = BytesInFlight(10)
    in_flight.hold(9, Call())
    with pytest.raises(Overloaded):
        in_flight.hold(2, Call())
    assert added() == {"bytes_in_flight": 1}
