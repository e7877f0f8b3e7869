"""Closing of a transport: what is not sent, and what the client still sends."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.server.lingering_transport import LingeringTransport


class Server(asyncio.Protocol):
    """A protocol that keeps what happens to its connection."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.lost()
        self.lost.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.is_receiving = False
        self.transport = LingeringTransport(
            transport, linger_s=0.2, send_timeout_s=0.2, is_receiving=lambda: self.is_receiving
        )


async def _connected() -> tuple[Server, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    _, server = await asyncio.get_running_loop().connect_accepted_socket(Server, ours)
    return server, theirs


@pytest.mark.parametrize("is_receiving", [False, True])
async def test_a_client_that_reads_nothing_does_not_keep_a_closed_connection(is_receiving: bool) -> None:
    server, client = await _connected()
    server.is_receiving = is_receiving
    with client:
        while not server.transport.get_write_buffer_size():
            server.transport.write(b"x" * 4096)
        server.transport.close()
        async with asyncio.timeout(20):
            await server.lost.wait()


async def test_a_client_that_never_stops_sending_does_not_keep_a_closed_connection() -> None:
    server, client = await _connected()
    server.is_receiving = True
    with client:
        server.transport.close()
        server.transport.close()
        assert server.transport.lingering
        assert client.recv(1) == b""  # the sending side is closed, and the receiving side is open
        client.send(b"more")
        async with asyncio.timeout(20):
            await server.lost.wait()


async def test_a_server_that_stops_does_not_wait_for_a_client() -> None:
    server, client = await _connected()
    server.is_receiving = True
    with client:
        server.transport.close()
        server.transport.close_now()
        await server.lost.wait()


async def test_the_head_of_a_response_is_sent_with_what_follows_it() -> None:
    server, client = await _connected()
    with client:
        client.setblocking(False)
        server.transport.hold_head(b"b: 2\r\n")
        server.transport.write(b"HTTP/1.1 200 \r\na: 1\r\n\r\n")
        with pytest.raises(BlockingIOError):
            client.recv(64)
        server.transport.write(b"body")
        assert client.recv(64) == b"HTTP/1.1 200 \r\na: 1\r\nb: 2\r\n\r\nbody"
        server.transport.write(b", more")
        assert client.recv(64) == b", more"
        server.transport.abort()
        await server.lost.wait()
