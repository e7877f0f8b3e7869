"""The REST server: uvicorn with this gateway's connections, listener and drain."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import ssl
import sys
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from fovea.repeated_message import RepeatedMessage
from fovea.rpc.credential_files import CredentialFiles
from fovea.rpc.server import split_address
from gateway.http.drain import Drain
from gateway.server.connection import Connection, ConnectionTimes
from gateway.server.connection_count import ConnectionCount, ConnectionSlot
from gateway.server.listener import Listener, bind
from gateway.server.tls import server_contexts
from gateway.server.trusted_proxies import TrustedProxies
from gateway.settings import GatewaySettings

__all__ = ["RestServer"]

log = logging.getLogger(__name__)

_SEND_GRACE_S: Final = 2
"""Seconds after the drain in which the errors of ended requests are sent."""


class RestServer(uvicorn.Server):
    """Server of the REST API. On SIGTERM it drains: requests in progress end after a grace period with an API error.

    Args:
        app: The application.
        settings: Address, TLS files, limits and time limits.
        drain: Drain of the application.

    Raises:
        CredentialsError: The certificate or key file cannot be used.
    """

    servers: list[Listener]  # type: ignore[assignment]

    def __init__(self, app: ASGIApp, settings: GatewaySettings, drain: Drain) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                log_config=None,
                access_log=False,  # written by gateway.http.request_context, with request id and outcome
                server_header=False,
                loop="asyncio",  # uvloop would read TLS into buffers of 256 KiB, beyond the bound of `tls.py`
                proxy_headers=False,  # done by Connection, for --trusted-proxies only
                timeout_graceful_shutdown=math.ceil(settings.drain_grace_s) + _SEND_GRACE_S,
            )
        )
        self._settings = settings
        self._drain = drain
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._count = ConnectionCount(settings.max_connections, settings.max_connections_per_address, self._proxies)
        self._times = ConnectionTimes(settings.header_timeout_s, settings.keep_alive_s, settings.send_timeout_s)
        self._refusals = RepeatedMessage(log, logging.WARNING)
        self._contexts: CredentialFiles[ssl.SSLContext] | None = None
        if settings.tls_cert:
            self._contexts = server_contexts(settings.tls_cert, settings.tls_key)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application, then listens.

        Args:
            sockets: Listening sockets; None to bind --listen.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        try:
            sockets = sockets or await bind(*split_address(self._settings.listen))
        except OSError as error:
            log.error("cannot listen on %s: %s", self._settings.listen, error.strerror)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        listener = Listener(
            sockets,
            count=self._count,
            protocol=self._connection,
            contexts=self._contexts,
            handshake_timeout_s=self._settings.header_timeout_s,
        )
        self.servers = [listener]
        log.info("running on %s", ", ".join(self.urls))
        self.started = True

    @property
    def urls(self) -> list[str]:
        """Base URLs of the listening sockets."""
        return [self._url(sock) for listener in self.servers for sock in listener.sockets]

    def _url(self, sock: socket.socket) -> str:
        host, port = sock.getsockname()[:2]
        return f"{'https' if self._contexts else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def _connection(self, slot: ConnectionSlot) -> Connection:
        return Connection(
            self.config,
            self.server_state,
            self.lifespan.state,
            times=self._times,
            proxies=self._proxies,
            slot=slot,
            refusals=self._refusals,
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until SIGTERM or SIGINT."""
        # After the drain uvicorn raises the received signal again, which would end a clean stop with its status.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        # Connection writes a line about refused requests that does not fill the log.
        logging.getLogger("uvicorn.error").addFilter(_is_no_invalid_request)
        super().run(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains. Requests still in progress after the grace period end with an API error, where uvicorn alone would
        send plain text."""
        timer = asyncio.get_running_loop().call_later(self._settings.drain_grace_s, self._drain.end)
        await super().shutdown(sockets)
        timer.cancel()


def _is_no_invalid_request(record: logging.LogRecord) -> bool:
    return record.msg != "Invalid HTTP request received."
