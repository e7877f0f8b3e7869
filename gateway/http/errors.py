"""Errors of the HTTP layer, and the JSON body and headers of every error."""

from __future__ import annotations

import math
from http import HTTPStatus

from fovea.errors import (
    DeadlineExceeded,
    MalformedRequest,
    NotFound,
    ServiceError,
    TooLarge,
    Unauthenticated,
    UnsupportedMedia,
)
from gateway.http.schemas.error import ErrorBody, ErrorDetail

__all__ = [
    "ForbiddenHost",
    "ForbiddenOrigin",
    "HeadersTooLarge",
    "InvalidApiKey",
    "MethodNotAllowed",
    "RequestTimeout",
    "UnknownRoute",
    "UnsupportedEncoding",
    "error_body",
    "error_headers",
]


class ForbiddenHost(MalformedRequest):
    """The name in Host is not one of this server."""

    code, http_status = "forbidden_host", 403


class ForbiddenOrigin(MalformedRequest):
    """A page of another origin sent the request."""

    code, http_status = "forbidden_origin", 403


class InvalidApiKey(Unauthenticated):
    """The client sent no API key that is accepted. The code is OpenAI's."""

    code, http_status = "invalid_api_key", 401


class RequestTimeout(DeadlineExceeded):
    """The client did not send its headers or its body in time."""

    code, http_status = "request_timeout", 408


class HeadersTooLarge(TooLarge):
    """Request line and headers are longer, or more, than accepted."""

    code, http_status = "headers_too_large", 431


class MethodNotAllowed(MalformedRequest):
    """The path does not accept this method."""

    code, http_status = "method_not_allowed", 405


class UnknownRoute(NotFound):
    """The path does not exist."""


class UnsupportedEncoding(UnsupportedMedia):
    """The body has a Content-Encoding."""


def _type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


def error_body(error: ServiceError) -> ErrorBody:
    """The JSON body of an error response."""
    return ErrorBody(
        error=ErrorDetail(
            message=error.message,
            type=_type(error.http_status),
            param=error.param,
            code=error.code,
            retry_after_s=_retry_after_s(error),
        )
    )


def error_headers(error: ServiceError) -> dict[str, str]:
    """Headers of an error response: Retry-After for 429 and 503; Accept-Encoding for a body with a Content-Encoding;
    WWW-Authenticate for 401."""
    if isinstance(error, InvalidApiKey):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, UnsupportedEncoding):
        return {"Accept-Encoding": "identity"}
    seconds = _retry_after_s(error)
    return {} if seconds is None else {"Retry-After": str(seconds)}


def _retry_after_s(error: ServiceError) -> int | None:
    """Whole seconds, rounded up, after which to retry; None for an error that is not a 429 or 503."""
    if error.http_status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return None
    return max(1, math.ceil(error.retry_after_s or 1.0))
