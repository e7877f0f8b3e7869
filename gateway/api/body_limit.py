"""Middleware that ends reading a request body at a limit, declared or not."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fovea.errors import TooLarge
from gateway.api.error_handlers import error_response

__all__ = ["BodyLimit"]


class BodyLimit:
    """Refuses bodies above `max_bytes` with 413: by their Content-Length at once, chunked ones when they pass it."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request body is larger than the {self._max_bytes:,} bytes accepted")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await error_response(scope, self._too_large())(scope, receive, send)
            return
        read = 0

        async def receive_limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_limited, send)
