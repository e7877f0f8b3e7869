"""Idle connections of clients that have many give their places to new connections when all are taken."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

import pytest

from gateway.server.connection_count import ConnectionCount, ConnectionSlot, TooManyConnections
from gateway.server.trusted_proxies import TrustedProxies
from tests.certificates import Authority
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, failures
from tests.unit.gateway.raw_http import GET, RawConnection
from tests.unit.gateway.test_rest_tls import _trusting


async def _open(stack: AsyncExitStack, gateway: Gateway, local: str, data: bytes = GET) -> RawConnection:
    """A connection that has sent `data`, and has its response if it is a request."""
    client = await stack.enter_async_context(RawConnection(gateway, local=local))
    await client.send(data)
    if data == GET:
        assert (await client.response()).status == 200
    return client


async def _is_served(client: RawConnection) -> bool:
    await client.send(GET)
    return (await client.response()).status == 200


async def test_four_addresses_do_not_keep_others_out(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(over_tcp=True, max_connections=16, max_connections_per_address=4)
    replaced, refused = failures("connection_replaced"), failures("connection_refused")
    async with AsyncExitStack() as stack:
        held = [await _open(stack, gateway, f"127.0.0.{2 + i % 4}") for i in range(16)]
        for i in range(4):
            await _open(stack, gateway, f"127.0.0.{10 + i}")
        assert [await client.is_closed() for client in held[:4]] == [True] * 4  # the oldest of each
        assert [await _is_served(client) for client in held[4:]] == [True] * 12
        assert failures("connection_replaced") == replaced + 4
        again = await stack.enter_async_context(RawConnection(gateway, local="127.0.0.2"))
        assert await again.is_closed()
        assert failures("connection_refused") == refused + 1
    lines = [line for line in caplog.messages if line.startswith("an idle connection was closed")]
    assert lines == ["an idle connection was closed for a new one: --max-connections (16) are open"]


@pytest.mark.parametrize("data", [b"", b"GET /healthz HTTP/1.1\r\nHost:", b"no HTTP\r\n\r\n"])
async def test_connections_without_a_complete_request_are_idle(start_gateway: StartGateway, data: bytes) -> None:
    """Those that sent nothing, a part of the headers, or a request that was refused."""
    gateway = await start_gateway(over_tcp=True, max_connections=4)
    async with AsyncExitStack() as stack:
        held = [await _open(stack, gateway, "127.0.0.2", data) for _ in range(4)]
        await _open(stack, gateway, "127.0.0.3")
        with suppress(ConnectionResetError):
            await held[0].reader.read()


async def test_a_request_in_progress_keeps_its_connection(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, max_connections=4)
    gateway.encoder.gate.shut()
    body = json.dumps(ask()).encode()
    request = b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with AsyncExitStack() as stack:
        busy = await _open(stack, gateway, "127.0.0.2", request)
        await gateway.encoder.gate.reached.wait()
        uploading = await _open(stack, gateway, "127.0.0.2", request[:-1])
        idle = [await _open(stack, gateway, "127.0.0.2") for _ in range(2)]
        await _open(stack, gateway, "127.0.0.3")
        assert await idle[0].is_closed()
        assert await _is_served(idle[1])
        gateway.encoder.gate.open()
        await uploading.send(request[-1:])
        assert [(await client.response()).status for client in (busy, uploading)] == [200, 200]


async def test_a_connection_is_as_old_as_its_last_response(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, max_connections=3)
    async with AsyncExitStack() as stack:
        first, second, third = [await _open(stack, gateway, "127.0.0.2") for _ in range(3)]
        assert await _is_served(first)
        await _open(stack, gateway, "127.0.0.3")
        assert await second.is_closed()
        assert await _is_served(first)
        assert await _is_served(third)


async def test_handshakes_and_idle_connections_over_tls_give_their_places(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("rest", "127.0.0.1")
    gateway = await start_gateway(over_tcp=True, tls_cert=files.cert, tls_key=files.key, max_connections=5)
    context, before = _trusting(authority), failures("handshake")
    async with AsyncExitStack() as stack:
        silent = await stack.enter_async_context(RawConnection(gateway, local="127.0.0.2"))
        idle = []
        for _ in range(4):
            client = await stack.enter_async_context(RawConnection(gateway, local="127.0.0.2", tls=context))
            assert await _is_served(client)
            idle.append(client)
        idle[0].writer.transport.pause_reading()  # type: ignore[attr-defined]
        for local, replaced in (("127.0.0.3", silent), ("127.0.0.4", idle[0])):
            newcomer = await stack.enter_async_context(RawConnection(gateway, local=local, tls=context))
            assert await _is_served(newcomer)
            if replaced is not silent:
                assert gateway.rest_server is not None
                assert len(gateway.rest_server.server_state.connections) == 5  # no close waits for its client
                replaced.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert await replaced.reader.read() == b""  # the end is announced; a reset would raise
    assert failures("handshake") == before


async def test_connections_accepted_together_are_idle_from_the_start(start_gateway: StartGateway) -> None:
    """All are in the kernel's queue before the gateway accepts the first."""
    gateway = await start_gateway(over_tcp=True, max_connections=4)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for i, client in enumerate(sockets):
            client.bind(("127.0.0.3" if i == 4 else "127.0.0.2", 0))
            client.connect(("127.0.0.1", gateway.http.base_url.port))
            client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sockets[4], GET)
        assert (await loop.sock_recv(sockets[4], 100)).startswith(b"HTTP/1.1 200")
        assert await loop.sock_recv(sockets[0], 100) == b""


def _count(most: int, proxies: Iterable[str] = ()) -> ConnectionCount:
    return ConnectionCount(most, most, TrustedProxies(proxies))


class _Idle:
    """Idle connections of hosts, and those of them that were closed.

    Args:
        count: Count that they are part of.
        hosts: Host of each.
    """

    def __init__(self, count: ConnectionCount, *hosts: str) -> None:
        self.closed: list[str] = []
        self.slots: list[ConnectionSlot] = []
        for host in hosts:
            slot = count.enter(host)
            slot.set_idle(lambda host=host: self.closed.append(host))  # type: ignore[misc]
            self.slots.append(slot)


def test_the_client_with_the_most_connections_loses_one() -> None:
    count = _count(7)
    idle = _Idle(count, "192.0.2.1", *["2001:db8::1", "2001:db8::2"] * 2, "192.0.2.1", "192.0.2.1")
    count.enter("192.0.2.9")
    assert idle.closed == ["2001:db8::1"]  # one /64 is one client
    assert count.num_open == 7


def test_clients_do_not_take_places_in_turn() -> None:
    count = _count(4)
    idle = _Idle(count, *["192.0.2.1"] * 3, "192.0.2.2")
    with pytest.raises(TooManyConnections, match=r"--max-connections \(4\)"):
        count.enter("192.0.2.2")  # would have two of four
    with pytest.raises(TooManyConnections):
        count.enter("192.0.2.1")
    count.enter("192.0.2.3")
    with pytest.raises(TooManyConnections):
        count.enter("192.0.2.4")  # nobody has three
    assert idle.closed == ["192.0.2.1"]


def test_a_client_without_an_idle_connection_does_not_protect_the_others() -> None:
    count = _count(7)
    for _ in range(4):
        count.enter("192.0.2.1")
    idle = _Idle(count, *["192.0.2.2"] * 3)
    count.enter("192.0.2.3")
    assert idle.closed == ["192.0.2.2"]


def test_idle_connections_of_trusted_proxies_go_last() -> None:
    proxies = ("10.0.0.1", "10.0.0.2")
    count = _count(9, proxies)
    idle = _Idle(count, *["10.0.0.1"] * 6, *["192.0.2.1"] * 3)
    count.enter("192.0.2.2")
    count.enter("192.0.2.3")
    assert idle.closed == ["192.0.2.1", "10.0.0.1"]


def test_a_proxy_with_many_connections_gets_one_from_another_client() -> None:
    count = _count(9, ["10.0.0.1"])
    idle = _Idle(count, *["10.0.0.1"] * 6, *["192.0.2.1"] * 3)
    count.enter("10.0.0.1")
    assert idle.closed == ["192.0.2.1"]
    with pytest.raises(TooManyConnections):
        count.enter("10.0.0.1")  # its own connections do not go for its own


def test_a_place_that_was_taken_stays_left() -> None:
    count = _count(3)
    idle = _Idle(count, *["192.0.2.1"] * 3)
    count.enter("192.0.2.2")
    idle.slots[0].set_idle(lambda: idle.closed.append("again"))
    idle.slots[0].leave()
    assert count.num_open == 3
    idle.slots[1].set_busy()
    idle.slots[2].leave()
    for host in ("192.0.2.3", "192.0.2.4"):
        try:
            count.enter(host)
        except TooManyConnections:
            assert host == "192.0.2.4"
    assert idle.closed == ["192.0.2.1"]
