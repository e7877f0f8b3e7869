"""Error responses of all endpoints, with the body {"error": {...}}."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from fovea.errors import InvalidRequest, MalformedRequest, ServiceError
from gateway.http.errors import MethodNotAllowed, UnknownRoute, error_body, error_headers
from gateway.http.request_context import OUTCOME
from gateway.http.schemas.reasons import reason

__all__ = ["error_response", "install_error_handlers"]

log = logging.getLogger(__name__)


def error_response(scope: Scope, error: ServiceError) -> JSONResponse:
    """Response for `error`. Stores the error code in the scope, for log and metrics."""
    scope[OUTCOME] = error.code
    return JSONResponse(error_body(error).model_dump(), error.http_status, headers=error_headers(error))


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error_response(request.scope, error)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return error_response(request.scope, UnknownRoute(_unknown_path(request.scope)))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        response = error_response(
            request.scope, MethodNotAllowed(f"{request.method:.20} is not accepted here; {allowed} is")
        )
        response.headers["Allow"] = allowed
        return response
    log.warning("a request was refused by the framework: %s %s", error.status_code, error.detail)
    return error_response(request.scope, MalformedRequest("the request cannot be read"))


def _unknown_path(scope: Scope) -> str:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    if path == "/metrics":  # where other servers have them
        return (
            "there is no such path here; metrics have a port of their own, set by --metrics-listen"
            " (GATEWAY_METRICS_LISTEN)"
        )
    return "there is no such path; GET /docs lists those that exist"


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return error_response(request.scope, InvalidRequest(f"{param}: {reason(first)}", param=param))


def install_error_handlers(app: FastAPI) -> None:
    """Installs handlers for errors of the gateway, of FastAPI and of the router, so that all have the same body."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
