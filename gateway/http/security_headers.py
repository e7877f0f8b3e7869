"""Middleware that adds the headers by which browsers restrict what responses are used for."""

from __future__ import annotations

from functools import cache
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.api_paths import is_api_path

__all__ = ["SecurityHeaders", "added_headers"]

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Other sites cannot embed a response. This does not concern pages that read it by CORS.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_OVER_TLS: Final = {"Strict-Transport-Security": "max-age=31536000"}
_OF_THE_API: Final = {"Cache-Control": "no-store"}


class SecurityHeaders:
    """Adds headers to every response. One that the response has already stays, such as the policy of `/docs`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added = added_headers(is_api=is_api_path(scope), is_tls=scope["scheme"] == "https")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                present = {name for name, _ in headers}
                message["headers"] = headers + [header for header in added if header[0] not in present]
            await send(message)

        await self._app(scope, receive, send_with_headers)


@cache
def added_headers(*, is_api: bool, is_tls: bool) -> list[tuple[bytes, bytes]]:
    """Headers for a path of the API or another one, as ASGI has them: names in lower case."""
    added = _HEADERS | (_OF_THE_API if is_api else {}) | (_OVER_TLS if is_tls else {})
    return [(name.lower().encode(), value.encode()) for name, value in added.items()]
