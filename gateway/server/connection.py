"""One connection of a client: time limits, announced closes, and refusals in the API's own form."""

from __future__ import annotations

import asyncio
import functools
import itertools
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fovea import telemetry
from fovea.errors import MalformedRequest, ServiceError
from fovea.repeated_message import RepeatedMessage
from gateway.client_addresses import parse_address
from gateway.http.errors import HeadersTooLarge, RequestTimeout, error_body
from gateway.http.security_headers import added_headers
from gateway.server.connection_count import ConnectionSlot
from gateway.server.lingering_transport import LingeringTransport
from gateway.server.strict_http import StrictConnection
from gateway.server.trusted_proxies import TrustedProxies

__all__ = ["Connection", "ConnectionTimes"]

_KEEP_ALIVE_MARGIN_S = 1
"""Seconds between the announced end of an idle connection and its close. A client that reuses the connection until the
announced end is served."""


@dataclass(frozen=True)
class ConnectionTimes:
    """Time limits of a connection in seconds.

    Attributes:
        header_s: Time for the headers of a request, from the connection or from their first byte; also the time for
            what a client sends after a response that ends the connection.
        keep_alive_s: Time that an idle connection stays open, as announced; 0 for none.
        send_s: Time without progress in sending a response.
    """

    header_s: float
    keep_alive_s: int
    send_s: float


@functools.cache
def _lines(keep_alive_s: int) -> dict[tuple[bytes, bytes], bytes]:
    """Lines of the headers that are the same in each response. h11 would check each of them by two patterns."""
    cases = itertools.product((True, False), repeat=2)
    constant = [header for is_api, is_tls in cases for header in added_headers(is_api=is_api, is_tls=is_tls)]
    # Not `connection`: where a client closes, h11 says so in its place.
    return {header: b"%b: %b\r\n" % header for header in [*constant, _timeout(keep_alive_s)]}


def _timeout(keep_alive_s: int) -> tuple[bytes, bytes]:
    return b"keep-alive", b"timeout=%d" % keep_alive_s


class Connection(H11Protocol):
    """Connection of a client.

    Args:
        config: Configuration of the server; it is loaded.
        server_state: State of the server, which has all connections.
        app_state: State of the application's lifespan.
        times: Time limits.
        proxies: Proxies whose forwarding headers are believed.
        slot: Place in the count of connections, which is left when the connection is lost.
        refusals: Log line about requests that are refused before the application has them.
    """

    transport: LingeringTransport

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        times: ConnectionTimes,
        proxies: TrustedProxies,
        slot: ConnectionSlot,
        refusals: RepeatedMessage,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.conn: StrictConnection = StrictConnection()
        self.app = self._respond
        self.timeout_keep_alive = times.keep_alive_s + _KEEP_ALIVE_MARGIN_S
        self._times = times
        self._proxies = proxies
        self._slot = slot
        self._refusals = refusals
        self._lines = _lines(times.keep_alive_s)
        self._header_timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._is_stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(
            LingeringTransport(
                transport,
                linger_s=self._times.header_s,
                send_timeout_s=self._times.send_s,
                is_receiving=self._is_receiving,
            )
        )
        if self.client is not None:
            self.client = (str(parse_address(self.client[0])), self.client[1])
        self._slot.set_idle(self._give_place)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.lost()
        self._stop_header_timer()
        self._unset_keepalive_if_required()
        self._slot.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch_headers()
        self._watch_idleness()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_headers()
        self._watch_idleness()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.watch_sending()

    def resume_writing(self) -> None:
        self.transport.stop_watching_sending()
        super().resume_writing()

    def shutdown(self) -> None:
        self._is_stopping = True
        if self.transport.is_closing():
            self.transport.close_now()
        else:
            super().shutdown()

    def _unsupported_upgrade_warning(self) -> None:
        """Does nothing: an upgrade that is not done needs no log line for each request."""

    def _is_receiving(self) -> bool:
        return self._is_refused or (self.cycle is not None and self.cycle.more_body)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, with the client behind a proxy in the scope, and with what happens to the connection after
        the response in its headers."""
        self._proxies.apply(scope)

        async def send_announced(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [*message["headers"], *self._announcement()]
                lines = self._lines
                message = {**message, "headers": [header for header in given if header not in lines]}
                # ASGI sends the headers with the first part of the body.
                self.transport.hold_head(b"".join([lines[header] for header in given if header in lines]))
            await send(message)

        await self.config.loaded_app(scope, receive, send_announced)

    def _announcement(self) -> list[tuple[bytes, bytes]]:
        # A body that nobody reads any more would have to be received to its end before the next request.
        if self._is_stopping or not self._times.keep_alive_s or self.cycle.more_body:
            return [CLOSE_HEADER]
        if self.conn.their_state is h11.MUST_CLOSE:
            return []  # as the client asked; h11 says so in its place
        return [(b"connection", b"keep-alive"), _timeout(self._times.keep_alive_s)]

    def _watch_headers(self) -> None:
        """Starts or stops the time limit for headers, by what has arrived of the next request."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_header_timer()
        elif self._header_timer is None and self.conn.trailing_data[0]:
            self._unset_keepalive_if_required()
            self._start_header_timer()

    def _watch_idleness(self) -> None:
        """Tells the count whether a request is in progress. Headers that are not complete are none."""
        if self.conn.their_state is h11.IDLE or self.transport.is_closing():
            self._slot.set_idle(self._give_place)
        else:
            self._slot.set_busy()

    def _give_place(self) -> None:
        """Closes the connection for a new one, without waiting for the client, which would hold a file descriptor."""
        self.timeout_keep_alive_handler()
        self.transport.abort()

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self._times.header_s, self._headers_late)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_late(self) -> None:
        self._header_timer = None
        if self.conn.trailing_data[0]:
            self._refuse(RequestTimeout(f"the headers did not arrive within {self._times.header_s:g} s"))
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuses a request that is not valid HTTP. Called by uvicorn."""
        status, text = self.conn.refusal
        too_large = status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        self._refuse(HeadersTooLarge(text) if too_large else MalformedRequest(text))

    def _refuse(self, error: ServiceError) -> None:
        """Ends the connection with an error response, or without one if a response has begun."""
        telemetry.REQUESTS.labels("other", error.code).inc()
        request_id = telemetry.new_request_id()
        self._refusals.write(
            f"a request was refused: {error.http_status}, {error} ({telemetry.REQUEST_ID_KEY}: {request_id})"
        )
        self._is_refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = error_body(error).model_dump_json().encode()
            headers = [
                *self.server_state.default_headers,
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (telemetry.REQUEST_ID_KEY.encode(), request_id.encode()),
                CLOSE_HEADER,
            ]
            reason = HTTPStatus(error.http_status).phrase.encode()
            for event in (
                h11.Response(status_code=error.http_status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
