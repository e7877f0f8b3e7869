"""Request bodies that arrive slowly: a least rate, and places that they give to others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from fastapi import Request
from starlette.types import Message

from fovea.errors import Overloaded
from gateway.http.body_arrival import BodyArrivals
from gateway.http.errors import RequestTimeout
from tests.unit.gateway.conftest import StartGateway, ask
from tests.unit.gateway.raw_http import RawConnection

pytestmark = pytest.mark.timeout(30)

HEAD = b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"


class Body:
    """A body whose pieces a test sends."""

    def __init__(self, arrivals: BodyArrivals, client: str) -> None:
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._progress = asyncio.Semaphore(0)
        request = Request({"type": "http", "headers": [], "method": "POST"}, self._receive)
        self.reading = asyncio.create_task(self._read(arrivals, request, client))

    async def _receive(self) -> Message:
        piece = await self._pieces.get()
        return {"type": "http.request", "body": piece, "more_body": piece != b""}

    async def _read(self, arrivals: BodyArrivals, request: Request, client: str) -> None:
        async with arrivals.arrival(request, client) as arriving:
            self._progress.release()
            async for _ in arriving.stream():
                self._progress.release()

    async def started(self) -> Body:
        """Waits until the body is being read."""
        await self._progress.acquire()
        return self

    async def send(self, num_bytes: int) -> None:
        """Sends a piece, and waits until it is read."""
        self._pieces.put_nowait(b"x" * num_bytes)
        await self._progress.acquire()

    async def end(self) -> None:
        """Sends the end, and waits for the result."""
        self._pieces.put_nowait(b"")
        await self.reading


class Clock:
    """Time of the event loop, which a test can move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real, self._offset = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self._offset)

    def pass_by(self, seconds: float) -> None:
        """Moves the time forward."""
        self._offset += seconds


@asynccontextmanager
async def bodies(arrivals: BodyArrivals, *clients: str) -> AsyncIterator[list[Body]]:
    """Bodies of these clients, being read."""
    async with AsyncExitStack() as stack:
        made = []
        for client in clients:
            body = await Body(arrivals, client).started()
            stack.callback(body.reading.cancel)
            made.append(body)
        yield made


async def test_a_body_below_the_least_rate_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    async with bodies(BodyArrivals(10, 60, 1000), "a", "b") as (slow, fast):
        await slow.send(5_000)
        await fast.send(30_000)
        clock.pass_by(14)
        await slow.send(1)
        clock.pass_by(2)
        with pytest.raises(RequestTimeout, match="less than 1,000 bytes per second"):
            await slow.reading
        await fast.end()


async def test_a_slow_link_may_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    async with bodies(BodyArrivals(10, 60, 1000), "a") as (body,):
        for _ in range(5):
            clock.pass_by(9)
            await body.send(10_000)
        await body.end()


async def test_the_whole_body_has_a_time_limit_whatever_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    async with bodies(BodyArrivals(10, 60, 1000), "a") as (body,):
        await body.send(10**6)
        clock.pass_by(61)
        with pytest.raises(RequestTimeout, match="did not arrive within 60 s"):
            await body.reading


async def test_a_new_body_replaces_the_one_that_is_furthest_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    arrivals = BodyArrivals(3, 60, 1000)
    async with bodies(arrivals, "a", "b", "c") as (fast, slower, slow):
        await fast.send(100_000)
        await slower.send(1_000)
        clock.pass_by(5)
        async with bodies(arrivals, "d") as (new,):
            with pytest.raises(Overloaded, match="limit of 3 bodies being read, and this one is the slowest"):
                await slow.reading
            await new.send(10)
            async with bodies(arrivals, "d") as (newer,):
                with pytest.raises(Overloaded):
                    await slower.reading
                await asyncio.gather(fast.end(), new.end(), newer.end())


async def test_a_body_replaces_one_of_the_client_that_has_the_most() -> None:
    arrivals = BodyArrivals(4, 60, 1000)
    async with bodies(arrivals, *["greedy"] * 3, "a") as (*greedy, other):
        for body in greedy[1:]:
            await body.send(10_000)  # none is behind the least rate
        async with bodies(arrivals, "b") as (new,):
            with pytest.raises(Overloaded):
                await greedy[0].reading
            await asyncio.gather(*(body.end() for body in (*greedy[1:], other, new)))


async def test_clients_with_equal_shares_keep_their_places() -> None:
    arrivals = BodyArrivals(2, 60, 1000)
    async with bodies(arrivals, "a", "b") as both:
        for client in ("a", "c"):
            with pytest.raises(Overloaded, match="limit of 2 bodies being read; try again"):
                await Body(arrivals, client).reading
        await asyncio.gather(*(body.end() for body in both))


async def test_a_load_generator_alone_keeps_its_places() -> None:
    arrivals = BodyArrivals(2, 60, 1000)
    async with bodies(arrivals, "a", "a") as both:
        with pytest.raises(Overloaded):
            await Body(arrivals, "a").reading
        await asyncio.gather(*(body.end() for body in both))


async def test_slow_bodies_of_one_address_do_not_keep_others_out(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, max_concurrent_bodies=4)
    body = json.dumps(ask()).encode()
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(RawConnection(gateway, local="127.0.0.2")) for _ in range(4)]
        for client in slow:
            await client.send(HEAD % 1000 + b"Expect: 100-continue\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")  # 100 Continue: its body is being read
        async with RawConnection(gateway) as other:
            await other.send(HEAD % len(body) + b"\r\n" + body)
            assert (await other.response()).status == 200
        done, _ = await asyncio.wait(
            [asyncio.create_task(client.response()) for client in slow], return_when=asyncio.FIRST_COMPLETED
        )
        response = done.pop().result()
        assert (response.status, response.headers["retry-after"]) == (429, "1")
        assert response.headers["connection"] == "close"
