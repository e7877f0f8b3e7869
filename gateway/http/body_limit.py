"""Middleware that bounds the size of each request body and of all together."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fovea.errors import Overloaded, TooLarge
from fovea.telemetry import Refusal, count_refusal
from gateway.access.clients import Client
from gateway.access.fair_shares import FairShares
from gateway.http.error_handlers import error_response
from gateway.http.headers import header
from gateway.http.request_context import CLIENT

__all__ = ["BodyLimit"]


class BodyLimit:
    """Limits on request bodies in bytes.

    A body above `max_bytes` is a 413: at once if Content-Length declares it, otherwise when the received bytes pass the
    limit. Received bytes count until the end of their request, because its images stay in memory until then. A body
    that would raise the total above `max_total_bytes`, or take more of it than the client's fair share leaves to
    others, is a 429.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_total_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._shares = FairShares(max_total_bytes)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request body is larger than the {self._max_bytes:,} bytes accepted")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared_bytes(scope) > self._max_bytes:
            await error_response(scope, self._too_large())(scope, receive, send)
            return
        client: Client = scope[CLIENT]
        received = held = 0

        async def receive_limited() -> Message:
            nonlocal received, held
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            if received > self._max_bytes:
                raise self._too_large()
            if size and self._shares.ask(client.id, size) != "granted":
                count_refusal(Refusal.BODY_BYTES)
                raise Overloaded(
                    f"the server holds its limit of {self._max_total_bytes:,} bytes of request bodies;"
                    " try again shortly",
                    retry_after_s=1.0,
                )
            if size:
                self._shares.take(client.id, size)
                held += size
            return message

        try:
            await self._app(scope, receive_limited, send)
        finally:
            self._shares.give_back(client.id, held)


def _declared_bytes(scope: Scope) -> int:
    """The Content-Length: 0 if it is missing or invalid, at least 10**18 for a number of more than 19 digits."""
    declared = header(scope, b"content-length") or ""
    return int(declared.lstrip("0")[:19] or 0) if declared.isascii() and declared.isdigit() else 0
