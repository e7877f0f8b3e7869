"""Answers as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fovea.errors import Cancelled, DeadlineExceeded, ServiceError
from gateway.core.answer import Answer, TextDelta
from gateway.http.client_errors import errors_for_client
from gateway.http.disconnect import until_disconnect
from gateway.http.drain import Drain
from gateway.http.errors import error_body
from gateway.http.request_context import OUTCOME
from gateway.http.schemas.error import ErrorBody, ErrorDetail

__all__ = ["SEND_GRACE_S", "EventStream", "data_frame", "event_frame"]

log = logging.getLogger(__name__)

_LINE_ENDS: Final = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""Escapes of characters that JSON keeps but some clients treat as line ends (Python's `str.splitlines`, JavaScript's
`^` and `$`). JSON escapes the other line ends itself."""

SEND_GRACE_S: Final = 5.0
"""Seconds after the deadline of an answer in which its last events may still be sent."""

Event = TextDelta | Answer


def event_frame(name: str, data: BaseModel) -> bytes:
    """A server-sent event.

    Args:
        name: Name of the event.
        data: Its data; fields without a value are left out.
    """
    return f"event: {name}\n".encode() + data_frame(data.model_dump_json(exclude_none=True))


def data_frame(json: str) -> bytes:
    """A server-sent event without a name.

    Args:
        json: Its data.
    """
    return f"data: {json.translate(_LINE_ENDS)}\n\n".encode()


def _error_event(error: ErrorBody) -> bytes:
    return b"event: error\n" + data_frame(error.model_dump_json())


class EventStream(Response):
    """Response with the events of an answer, or an error. A disconnect of the client cancels the work.

    Args:
        first: First event. It is awaited by the caller, so that an earlier error is an ordinary error response.
        rest: Following events.
        frame: Form of an event in this surface.
        error_frame: Form of an error, by default the event `error`.
        fields: Names of the client's fields, see `errors_for_client`.
        resources: Resources that are closed at the end of the stream.
        drain: Drain, which ends the stream with an error when the server stops.
        give_up_at: Event-loop time in seconds at which a client that reads too slowly is disconnected, because it holds
            a permit.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: Event,
        rest: AsyncGenerator[Event],
        *,
        frame: Callable[[Event], bytes],
        fields: Mapping[str, str],
        resources: AsyncExitStack,
        drain: Drain,
        give_up_at: float,
        error_frame: Callable[[ErrorBody], bytes] = _error_event,
    ) -> None:
        # Proxies must not buffer or compress events.
        super().__init__(headers={"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._frame = frame
        self._error_frame = error_frame
        self._fields = fields
        self._resources = resources
        self._drain = drain
        self._give_up_at = give_up_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._resources:
            try:
                async with asyncio.timeout_at(self._give_up_at):
                    await until_disconnect(receive, self._send(scope, send))
            except TimeoutError:
                scope[OUTCOME] = DeadlineExceeded.code
            except (Cancelled, OSError):  # a send on a closed connection is an OSError
                scope[OUTCOME] = Cancelled.code

    async def _send(self, scope: Scope, send: Send) -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with self._drain.scope():
                with errors_for_client(self._fields):
                    await write(self._frame(self._first))
                    async for event in self._rest:
                        await write(self._frame(event))
        except ServiceError as error:
            scope[OUTCOME] = error.code
            await write(self._error_frame(error_body(error)))
        except OSError:
            raise
        except Exception:
            log.exception("a stream failed")
            scope[OUTCOME] = "internal_error"
            detail = ErrorDetail(
                message="the gateway failed on this request; its log tells why",
                type="server_error",
                code="internal_error",
            )
            await write(self._error_frame(ErrorBody(error=detail)))
        await write(b"", more=False)
