"""Answers as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Final

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fovea.errors import Cancelled, DeadlineExceeded, ServiceError
from gateway.http.disconnect import until_disconnect
from gateway.http.drain import Drain
from gateway.http.errors import error_body
from gateway.http.request_context import OUTCOME
from gateway.http.schemas.answer_response import AnswerResponse, TokenEvent
from gateway.http.schemas.error import ErrorBody, ErrorDetail

__all__ = ["EventStream"]

log = logging.getLogger(__name__)

_LINE_ENDS: Final = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""Escapes of characters that JSON keeps but some clients treat as line ends (Python's `str.splitlines`, JavaScript's
`^` and `$`). JSON escapes the other line ends itself."""

Event = TokenEvent | AnswerResponse


def _frame(name: str, data: BaseModel, *, exclude_none: bool = False) -> bytes:
    text = data.model_dump_json(exclude_none=exclude_none).translate(_LINE_ENDS)
    return f"event: {name}\ndata: {text}\n\n".encode()


def _event(event: Event) -> bytes:
    return _frame("token" if isinstance(event, TokenEvent) else "done", event, exclude_none=True)


class EventStream(Response):
    """Response with `token` events, then `done` or `error`. A disconnect of the client cancels the work.

    Args:
        first: First event. It is awaited by the caller, so that an earlier error is an ordinary error response.
        rest: Following events.
        resources: Resources that are closed at the end of the stream.
        drain: Drain, which ends the stream with the event `error` when the server stops.
        give_up_at: Event-loop time in seconds at which a client that reads too slowly is disconnected, because it holds
            a permit.
    """

    media_type = "text/event-stream"

    def __init__(
        self, first: Event, rest: AsyncGenerator[Event], resources: AsyncExitStack, drain: Drain, *, give_up_at: float
    ) -> None:
        # Proxies must not buffer or compress events.
        super().__init__(headers={"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
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
                await write(_event(self._first))
                async for event in self._rest:
                    await write(_event(event))
        except ServiceError as error:
            scope[OUTCOME] = error.code
            await write(_frame("error", error_body(error)))
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
            await write(_frame("error", ErrorBody(error=detail)))
        await write(b"", more=False)
