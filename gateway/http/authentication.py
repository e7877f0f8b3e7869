"""Middleware that finds the client of each request, and refuses requests without an accepted key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from fastapi import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from fovea.api_keys.key_file import AcceptedKeys
from fovea.api_keys.key_lines import ClientLimits
from gateway.access.clients import Client, client_at, client_with
from gateway.http.api_paths import is_api_path
from gateway.http.error_handlers import error_response
from gateway.http.errors import InvalidApiKey
from gateway.http.headers import header
from gateway.http.request_context import CLIENT

__all__ = ["Authentication", "client_of"]


def client_of(request: Request) -> Client:
    """The client of a request."""
    return cast(Client, request.scope[CLIENT])


class Authentication:
    """Middleware that finds the client. With keys, every path of the API needs one, before its body is read.

    A missing key and a wrong key take the same time and have the same response.

    Args:
        app: Application.
        keys: Accepted keys; None to serve everyone.
        defaults: Limits of clients whose key has none of its own.
        routes: Routes of the API, for the metrics and the audit log of refused requests.
    """

    def __init__(
        self, app: ASGIApp, keys: AcceptedKeys | None, defaults: ClientLimits, routes: Sequence[BaseRoute]
    ) -> None:
        self._app = app
        self._keys = keys
        self._defaults = defaults
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._keys is None or not is_api_path(scope):
            address = scope.get("client")
            scope[CLIENT] = client_at(address[0] if address else "", self._defaults)
            await self._app(scope, receive, send)
            return
        key = self._keys.key_of(header(scope, b"authorization") or "")
        if key is None:
            scope["route"] = next((route for route in self._routes if route.matches(scope)[0] != Match.NONE), None)
            error = InvalidApiKey("no accepted API key; send the header Authorization: Bearer KEY")
            await error_response(scope, error)(scope, receive, send)
            return
        scope[CLIENT] = client_with(key, self._defaults)
        await self._app(scope, receive, send)
