"""Listening sockets: accepts connections within the limits, and does their TLS handshakes."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from fovea import telemetry
from fovea.repeated_message import RepeatedMessage
from fovea.rpc.credential_files import CredentialFiles
from gateway.server.connection_count import ConnectionCount, ConnectionSlot, TooManyConnections

__all__ = ["Listener", "bind"]

log = logging.getLogger(__name__)

_BACKLOG: Final = 2048
_ACCEPTS_PER_TICK: Final = 64
"""Most connections accepted before other events of the loop have their turn."""
_ACCEPT_RETRY_S: Final = 1.0
"""Pause after the system could not give a socket. Without it the loop would try again at once, and in vain."""
_OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SEND_BUFFER_BYTES: Final = 128 * 1024
"""Send buffer of a connection in the kernel, which doubles it. The kernel's own limit is 4 MiB for each connection."""
_TLS_SHUTDOWN_S: Final = 5.0


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets of all addresses of `host`.

    Raises:
        OSError: No address can be bound.
    """
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)  # inherited by connections
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


class Listener:
    """Listening sockets that hand accepted connections to protocols. It takes the place of an asyncio.Server.

    asyncio's own server knows the client only after the TLS handshake, and logs a traceback for each connection that it
    cannot accept for want of file descriptors: thousands a second.

    Args:
        sockets: Listening sockets, which are closed with the listener.
        count: Count of open connections. A connection beyond its limits is closed at once, or takes the place of an
            idle one.
        protocol: Function from a place in the count to the protocol of a new connection, which leaves the place.
        contexts: TLS contexts; None for plain connections.
        handshake_timeout_s: Time limit of a TLS handshake in seconds.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        *,
        count: ConnectionCount,
        protocol: Callable[[ConnectionSlot], asyncio.Protocol],
        contexts: CredentialFiles[ssl.SSLContext] | None,
        handshake_timeout_s: float,
    ) -> None:
        self.sockets = sockets
        self._count = count
        self._protocol = protocol
        self._contexts = contexts
        self._handshake_timeout_s = handshake_timeout_s
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._handshakes: set[asyncio.Task[None]] = set()
        self._refused = RepeatedMessage(log, logging.WARNING)
        self._not_accepted = RepeatedMessage(log, logging.ERROR)
        for sock in sockets:
            self._resume(sock)

    def close(self) -> None:
        """Closes the sockets and ends handshakes in progress. Open connections stay."""
        self._is_closed = True
        for sock in self.sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for task in self._handshakes:
            task.cancel()

    async def wait_closed(self) -> None:
        """Waits for the end of handshakes."""
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _resume(self, sock: socket.socket) -> None:
        if not self._is_closed:
            self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TICK):
            try:
                connection, address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                telemetry.count_failure(telemetry.FailureKind.ACCEPT)
                self._not_accepted.write(f"no connection can be accepted: {error.strerror}")
                self._loop.remove_reader(sock)
                self._loop.call_later(_ACCEPT_RETRY_S, self._resume, sock)
                return
            connection.setblocking(False)
            try:
                slot = self._count.enter(address[0])
            except TooManyConnections as error:
                connection.close()
                telemetry.count_failure(telemetry.FailureKind.CONNECTION_REFUSED)
                self._refused.write(f"a connection was refused: {error}")
                continue
            slot.set_idle(connection.close)
            task = self._loop.create_task(self._connect(connection, slot))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _connect(self, connection: socket.socket, slot: ConnectionSlot) -> None:
        if connection.fileno() < 0:  # a connection that was accepted together with this one has its place
            return
        context = self._contexts.get() if self._contexts is not None else None
        task = asyncio.current_task()
        assert task is not None
        slot.set_idle(task.cancel)  # until the protocol has the connection
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._protocol(slot),
                connection,
                ssl=context,
                ssl_handshake_timeout=self._handshake_timeout_s if context else None,
                ssl_shutdown_timeout=_TLS_SHUTDOWN_S if context else None,
            )
        except OSError:
            telemetry.count_failure(telemetry.FailureKind.HANDSHAKE)
            slot.leave()
        except BaseException:
            slot.leave()
            raise
