"""Prometheus endpoint of a process, on an address of its own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

__all__ = ["MetricsEndpoint"]

log = logging.getLogger(__name__)

_MAX_CONNECTIONS: Final = 8
"""Most connections at once; each has a thread. A further one is closed at once."""

_MAX_SECONDS: Final = 10.0
"""Seconds from the start of a connection to its end, whatever arrives on it."""


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Logs nothing: scrapes are frequent, and a client's request line is not for the log."""


class MetricsEndpoint(ThreadingMixIn, WSGIServer):
    """Server of this process's metrics at every path, on threads of its own. Closed at the end of a `with` block.

    Connections are limited in number and in time, so that idle ones cost nothing but each other.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one, see `server_port`.
        max_seconds: Seconds after which a connection is closed.

    Raises:
        OSError: The address is taken, or not one of this machine.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, *, max_seconds: float = _MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        super().__init__(address[:2], _Handler)  # type: ignore[arg-type]
        app: Callable[..., Any] = make_wsgi_app()
        self.set_app(app)
        log.info("metrics are on port %d", self.server_port)
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        end = threading.Timer(self._max_seconds, _shut, [request])
        end.daemon = True
        try:
            end.start()
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors of a connection, such as a reset by the client: Prometheus reports scrapes that fail."""

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def _shut(request: socket.socket) -> None:
    """Ends the reads and writes of a connection, whose thread then closes it."""
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:  # closed already
        return
