"""Middleware that answers with a 500 where the application fails."""

from __future__ import annotations

import logging
from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.request_context import OUTCOME, route_of
from gateway.http.schemas.error import ErrorBody, ErrorDetail

__all__ = ["UnexpectedErrors"]

log = logging.getLogger(__name__)


class UnexpectedErrors:
    """Logs exceptions of the application, and answers them if no response has begun."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            if scope["type"] != "http":
                raise
            log.exception("%s %s failed", scope["method"], route_of(scope))
            scope[OUTCOME] = "internal_error"
            if not has_begun:
                await _internal_error(scope, receive, send)


async def _internal_error(scope: Scope, receive: Receive, send: Send) -> None:
    detail = ErrorDetail(
        message="the gateway failed on this request; its log tells why", type="server_error", code="internal_error"
    )
    body = ErrorBody(error=detail).model_dump()
    await JSONResponse(body, HTTPStatus.INTERNAL_SERVER_ERROR)(scope, receive, send)
