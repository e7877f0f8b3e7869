"""Pixels in encode calls: a client's large images delay another client by those in progress only."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from benchmarks.safety.costly_images import one_colour_webp
from fovea.errors import DeadlineExceeded
from gateway.core.deadlines import now
from gateway.core.pixel_shares import PixelShares
from tests.unit.gateway.conftest import StartGateway, ask, data_url

LIMIT = 80


class Calls:
    """Encode calls that hold pixels until a test ends them."""

    def __init__(self, pixels: PixelShares) -> None:
        self._pixels = pixels
        self.running: list[str] = []

    def start(self, client: str, num_pixels: int, stack: AsyncExitStack) -> asyncio.Event:
        """Starts a call. Returns the event that ends it."""
        end = asyncio.Event()
        task = asyncio.create_task(self._call(client, num_pixels, end))
        stack.callback(task.cancel)
        return end

    async def _call(self, client: str, num_pixels: int, end: asyncio.Event) -> None:
        async with self._pixels.hold(client, num_pixels, deadline=now() + 60):
            self.running.append(client)
            await end.wait()
            self.running.remove(client)


async def settle() -> None:
    """Lets all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_newcomer_does_not_wait_behind_the_images_of_a_greedy_client() -> None:
    pixels = PixelShares(LIMIT)
    calls = Calls(pixels)
    async with AsyncExitStack() as stack:
        ends = [calls.start("greedy", 10, stack) for _ in range(20)]
        await settle()
        assert calls.running == ["greedy"] * 7  # seven eighths
        calls.start("newcomer", 10, stack)
        await settle()
        assert calls.running == ["greedy"] * 7 + ["newcomer"]
        for end in ends[:4]:
            end.set()
        await settle()
        assert calls.running.count("greedy") == 6  # what is free except the reserve
        assert pixels.num_waiting == 10


async def test_a_large_call_is_passed_by_nobody_while_its_client_has_nothing() -> None:
    pixels = PixelShares(LIMIT)
    calls = Calls(pixels)
    async with AsyncExitStack() as stack:
        ends = [calls.start(f"client-{i}", 10, stack) for i in range(8)]
        await settle()
        calls.start("large", 60, stack)
        await settle()
        calls.start("late", 5, stack)
        await settle()
        for end in ends[:6]:
            end.set()
        await settle()
        assert "late" not in calls.running
        ends[6].set()
        await settle()
        assert "large" in calls.running


async def test_more_than_the_limit_runs_alone() -> None:
    calls = Calls(PixelShares(LIMIT))
    async with AsyncExitStack() as stack:
        small = calls.start("a", 1, stack)
        await settle()
        huge = calls.start("b", 1000, stack)
        await settle()
        assert calls.running == ["a"]
        small.set()
        await settle()
        calls.start("a", 1, stack)
        await settle()
        assert calls.running == ["b"]
        huge.set()
        await settle()
        assert calls.running == ["a"]


async def test_a_wait_ends_at_the_deadline_and_when_the_caller_leaves() -> None:
    pixels = PixelShares(LIMIT)
    calls = Calls(pixels)
    async with AsyncExitStack() as stack:
        end = calls.start("a", 70, stack)
        await settle()
        with pytest.raises(DeadlineExceeded):
            async with pixels.hold("a", 70, deadline=now()):
                pass
        leaving = asyncio.create_task(calls._call("a", 70, asyncio.Event()))
        await settle()
        leaving.cancel()
        await settle()
        assert pixels.num_waiting == 0
        end.set()
        await settle()
        assert calls.running == []


async def test_images_of_one_client_leave_room_for_another(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_pixels_in_flight=100_000_000)
    gateway.encoder.gate.shut()
    large = data_url(one_colour_webp((6000, 6000)), "image/webp")

    async def post(address: str, **fields: object) -> int:
        async with gateway.http_from(address) as http:
            return (await http.post("/v1/answer", json=ask(**fields))).status_code

    greedy = [asyncio.create_task(post("192.0.2.1", image=large, cache="bypass")) for _ in range(10)]
    while len(gateway.encoder.calls) < 2:
        gateway.encoder.gate.reached.clear()
        await gateway.encoder.gate.reached.wait()
    other = asyncio.create_task(post("192.0.2.2", cache="bypass"))
    while len(gateway.encoder.calls) < 3:
        gateway.encoder.gate.reached.clear()
        await gateway.encoder.gate.reached.wait()
    gateway.encoder.gate.open()
    assert await other == 200
    assert {await task for task in greedy} == {200}
