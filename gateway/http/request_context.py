"""Outermost middleware: request id, a log line for each request, metrics."""

from __future__ import annotations

import logging
import re
import time
from functools import cache
from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fovea import telemetry, tracing
from gateway.http.api_paths import is_api_path
from gateway.http.audit import audit_record, write_audit_line
from gateway.http.headers import header
from gateway.http.key_metrics import KeyMetrics

__all__ = ["CLIENT", "OUTCOME", "RequestContext", "route_of"]

log = logging.getLogger(__name__)

OUTCOME: Final = "fovea.outcome"
"""Key of the ASGI scope that holds the error code of a response, for log and metrics."""

CLIENT: Final = "fovea.client"
"""Key of the ASGI scope that holds the client of a request; missing if it was refused for its key."""

_ID_HEADER: Final = telemetry.REQUEST_ID_KEY.encode()
_VALID_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET_ROUTES: Final = ("/health", "/healthz", "/readyz")


class RequestContext:
    """Middleware that gives each request an id and each response the header `x-request-id`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._keys = KeyMetrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, _ID_HEADER)
        request_id = given if given and _VALID_ID.fullmatch(given) else telemetry.new_request_id()
        telemetry.request_id.set(request_id)
        start, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (_ID_HEADER, request_id.encode())]
            await send(message)

        try:
            if tracing.is_on() and is_api_path(scope):
                await self._traced(scope, receive, send_with_id, request_id)
            else:
                await self._app(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - start)

    async def _traced(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """The request in a span of the caller's trace, or of a new one."""
        caller = header(scope, tracing.TRACEPARENT_KEY.encode()) or ""
        with tracing.span("request", caller=caller, is_server=True) as attributes:
            try:
                await self._app(scope, receive, send)
            finally:
                attributes |= {
                    "http.request.method": scope["method"] if scope["method"] in _METHODS else "other",
                    "http.route": route_of(scope),
                    "fovea.request_id": request_id,
                    "fovea.outcome": str(scope.get(OUTCOME) or "ok"),
                }

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_of(scope)
        outcome = scope.get(OUTCOME) or ("ok" if 0 < status < HTTPStatus.BAD_REQUEST else str(status or "aborted"))
        method = scope["method"] if scope["method"] in _METHODS else "other"
        label = f"{method} {route}" if route else "other"
        _requests(label, outcome).inc()
        if outcome == "ok" and route:
            _latency(label).observe(seconds)
        if is_api_path(scope):  # its line in the audit log says all that an access line would
            self._keys.count(scope.get(CLIENT), outcome, audit_record(scope))
            write_audit_line(
                scope,
                scope.get(CLIENT),
                method=method,
                route=route,
                status=status,
                outcome=outcome,
                seconds=seconds,
            )
        else:
            level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
            log.log(level, "%s %s %s %s %.1f ms", method, route or "-", status, outcome, seconds * 1000)


# The series of a label are looked up once.
_requests: Final = cache(telemetry.REQUESTS.labels)
_latency: Final = cache(telemetry.REQUEST_LATENCY_SECONDS.labels)


def route_of(scope: Scope) -> str:
    """Template of the route, so that metrics have few labels and logs hold no text of a client."""
    return str(getattr(scope.get("route"), "path", ""))
