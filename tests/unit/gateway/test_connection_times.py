"""Time limits of connections: headers, idle connections, responses that are not read; and how closes are announced."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from fovea import telemetry
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, failures
from tests.unit.gateway.raw_http import GET, RawConnection


async def test_a_silent_connection_is_closed(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, header_timeout_s=0.1)
    async with RawConnection(gateway) as client:
        assert await client.is_closed()


@pytest.mark.parametrize("first", [b"", GET], ids=["first", "second"])
async def test_headers_that_do_not_arrive_are_a_408(start_gateway: StartGateway, first: bytes) -> None:
    gateway = await start_gateway(over_tcp=True, header_timeout_s=0.1)
    async with RawConnection(gateway) as client:
        if first:
            await client.send(first)
            assert (await client.response()).status == 200
        await client.send(b"GET /healthz HTTP/1.1\r\nHost:")
        response = await client.response()
        assert (response.status, response.error["code"]) == (408, "request_timeout")
        assert response.headers["connection"] == "close"
        assert response.headers["x-request-id"]
        assert await client.is_closed()


async def test_headers_behind_a_pipelined_request_have_the_same_limit(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, header_timeout_s=0.1)
    async with RawConnection(gateway) as client:
        await client.send(GET + b"GET /healthz HTTP/1.1\r\n")
        assert (await client.response()).status == 200
        assert (await client.response()).status == 408


async def test_more_bytes_do_not_extend_the_time_for_headers(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, header_timeout_s=0.2)
    async with RawConnection(gateway) as client:

        async def drip() -> None:
            await client.send(b"GET /healthz HTTP/1.1\r\nX: ")
            while True:
                await client.send(b"y")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert (await client.response()).status == 408
        dripping.cancel()
        await asyncio.wait([dripping])


async def test_a_request_may_take_longer_than_its_headers(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, header_timeout_s=0.1)
    body = json.dumps(ask()).encode()
    async with RawConnection(gateway) as client:
        await client.send(b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n{" % len(body))
        async with RawConnection(gateway) as silent:
            assert await silent.is_closed()  # the limit of a connection that is as old has passed
        await client.send(body[1:])
        assert (await client.response()).status == 200


async def test_idle_connections_are_announced_and_closed_later(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, keep_alive_s=1)
    async with RawConnection(gateway) as client:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            await client.send(GET)
            response = await client.response()
            assert response.headers["keep-alive"] == "timeout=1"
            assert response.headers["connection"] == "keep-alive"
        answered = loop.time()
        assert await client.is_closed()
        assert loop.time() - answered > 1  # a request within the announced time is served


async def test_keep_alive_is_75_seconds_and_can_be_turned_off(start_gateway: StartGateway) -> None:
    async with RawConnection(await start_gateway(over_tcp=True)) as client:
        await client.send(GET)
        assert (await client.response()).headers["keep-alive"] == "timeout=75"
    async with RawConnection(await start_gateway(over_tcp=True, keep_alive_s=0)) as client:
        await client.send(GET)
        response = await client.response()
        assert (response.headers["connection"], response.headers.get("keep-alive")) == ("close", None)
        assert await client.is_closed()


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: TE, Close\r\n\r\n",
    ],
)
async def test_a_close_that_the_client_asks_for_is_confirmed(gateway_over_tcp: Gateway, request_head: bytes) -> None:
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(request_head)
        response = await client.response()
        assert (response.headers["connection"], response.headers.get("keep-alive")) == ("close", None)
        assert await client.is_closed()


async def test_a_body_that_is_not_read_ends_the_connection_after_the_response(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, max_body_bytes=1000)
    size = 8 * 2**20  # more than the buffers of both sockets hold
    async with RawConnection(gateway) as client:
        await client.send(b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        await client.send(b"x" * size)  # a client that reads no response before it has sent its body
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (413, "close")
        assert await client.is_closed()


async def test_a_body_that_is_dropped_does_not_hold_the_connection(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, header_timeout_s=0.1)
    async with RawConnection(gateway) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await client.is_closed()


async def _paused(client: RawConnection, num_requests: int, receive_buffer: int = 4096) -> None:
    """Sends requests without reading the responses."""
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * num_requests)


async def _read(client: RawConnection, num_responses: int) -> None:
    for _ in range(num_responses):
        assert (await client.response()).status == 200


@pytest.mark.parametrize("num_requests", [40, 200], ids=["one buffer", "pipelined"])
async def test_a_client_that_does_not_read_its_responses_is_disconnected(
    start_gateway: StartGateway, num_requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start_gateway(over_tcp=True, send_timeout_s=0.2)
    counted: asyncio.Queue[telemetry.FailureKind] = asyncio.Queue()
    monkeypatch.setattr(telemetry, "count_failure", counted.put_nowait)
    async with RawConnection(gateway) as client:
        await _paused(client, num_requests)
        assert await counted.get() is telemetry.FailureKind.CLIENT_STALLED
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await _read(client, num_requests)


async def test_a_client_that_reads_slowly_gets_everything(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, send_timeout_s=0.5)
    before = failures("client_stalled")
    async with RawConnection(gateway) as client:
        await _paused(client, 6, receive_buffer=8192)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        started = asyncio.get_running_loop().time()
        await _read(client, 6)
        assert asyncio.get_running_loop().time() - started > 0.5  # the time limit has passed
    assert failures("client_stalled") == before


async def test_connections_end_with_an_announcement_when_the_server_stops(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, drain_grace_s=10)
    gateway.encoder.gate.shut()
    body = json.dumps(ask()).encode()
    async with RawConnection(gateway) as busy, RawConnection(gateway) as idle:
        await idle.send(GET)
        assert (await idle.response()).headers["connection"] == "keep-alive"
        await busy.send(b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await gateway.encoder.gate.reached.wait()
        gateway.stop()
        assert await idle.is_closed()
        gateway.encoder.gate.open()
        response = await busy.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await busy.is_closed()
