"""Middleware of the gateway, in its order."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from fovea.api_keys.key_file import AcceptedKeys
from gateway.http.authentication import Authentication
from gateway.http.body_limit import BodyLimit
from gateway.http.request_context import RequestContext
from gateway.http.security_headers import SecurityHeaders
from gateway.http.unexpected_errors import UnexpectedErrors
from gateway.http.web_pages import WebPages
from gateway.settings import GatewaySettings

__all__ = ["add_middleware"]


def add_middleware(
    app: FastAPI, settings: GatewaySettings, keys: AcceptedKeys | None, *, routes: Sequence[BaseRoute]
) -> None:
    """Adds the middleware from the innermost to the outermost.

    Args:
        app: Application.
        settings: Settings of the gateway.
        keys: Accepted API keys; None to serve everyone.
        routes: Routes of the API.
    """
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, max_total_bytes=settings.max_total_body_bytes)
    # Inside CORS: a browser's preflight carries no key.
    app.add_middleware(Authentication, keys=keys, defaults=settings.client_limits, routes=routes)
    # Its responses need the headers of those around it.
    app.add_middleware(UnexpectedErrors)
    if settings.cors_origins:
        # Any header: SDKs for browsers send their own. No credentials: the API has none that a browser adds by itself.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["x-request-id", "Retry-After"],
        )
    app.add_middleware(WebPages, settings=settings)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestContext)
