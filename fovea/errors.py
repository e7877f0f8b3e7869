"""The one tree of errors that may leave a service, and its one table to gRPC and HTTP.

ServiceError
├── MalformedRequest    INVALID_ARGUMENT     400  the message cannot be read at all
├── NotFound            NOT_FOUND            404  no such model or pruner
├── TooLarge            OUT_OF_RANGE         413  more bytes, pixels or tokens than accepted
├── UnsupportedMedia    INVALID_ARGUMENT     415  not a picture that can be decoded
├── InvalidRequest      INVALID_ARGUMENT     422  a field holds what is not accepted
├── CheckpointMismatch  FAILED_PRECONDITION  502  tokens of one checkpoint sent to another
├── Overloaded          RESOURCE_EXHAUSTED   429  the queue is full, come back later
├── Unauthenticated     UNAUTHENTICATED      502  a service does not know the gateway: no token of a site it lets in
├── Cancelled           CANCELLED            499  the caller has gone
├── DeadlineExceeded    DEADLINE_EXCEEDED    504  not done within the caller's time
├── Unavailable         UNAVAILABLE          503  the service is down, starting or draining
└── InternalError       INTERNAL             502  a defect on our side; details go to the log only

A message says what was wrong and what is accepted. It never carries a path, an address or a stack trace: it goes to
the caller word for word. A subclass travels over gRPC as its status plus the trailing metadata `fovea-code`,
`fovea-param` and `fovea-retry-after-s`, and `from_rpc_error` makes the same object of it at the other end.
"""

from __future__ import annotations

from typing import ClassVar

import grpc
import grpc.aio

__all__ = [
    "Cancelled",
    "CheckpointMismatch",
    "DeadlineExceeded",
    "InternalError",
    "InvalidRequest",
    "MalformedRequest",
    "NotFound",
    "Overloaded",
    "ServiceError",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedMedia",
    "error_types",
    "from_rpc_error",
    "to_metadata",
]

StatusCode = grpc.StatusCode


class ServiceError(Exception):
    """Base of all errors that a caller may see.

    Args:
        message: What was wrong and what is accepted, for the caller.
        param: The request field at fault, if there is one.
        retry_after_s: When it is worth trying again, in seconds.
    """

    code: ClassVar[str]
    grpc_status: ClassVar[grpc.StatusCode]
    http_status: ClassVar[int]

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class MalformedRequest(ServiceError):
    code, grpc_status, http_status = "malformed_request", StatusCode.INVALID_ARGUMENT, 400


class NotFound(ServiceError):
    code, grpc_status, http_status = "not_found", StatusCode.NOT_FOUND, 404


class TooLarge(ServiceError):
    code, grpc_status, http_status = "too_large", StatusCode.OUT_OF_RANGE, 413


class UnsupportedMedia(ServiceError):
    code, grpc_status, http_status = "unsupported_media", StatusCode.INVALID_ARGUMENT, 415


class InvalidRequest(ServiceError):
    code, grpc_status, http_status = "invalid_request", StatusCode.INVALID_ARGUMENT, 422


class CheckpointMismatch(ServiceError):
    code, grpc_status, http_status = "checkpoint_mismatch", StatusCode.FAILED_PRECONDITION, 502


class Overloaded(ServiceError):
    code, grpc_status, http_status = "overloaded", StatusCode.RESOURCE_EXHAUSTED, 429


class Unauthenticated(ServiceError):
    code, grpc_status, http_status = "unauthenticated", StatusCode.UNAUTHENTICATED, 502


class Cancelled(ServiceError):
    code, grpc_status, http_status = "cancelled", StatusCode.CANCELLED, 499


class DeadlineExceeded(ServiceError):
    code, grpc_status, http_status = "deadline_exceeded", StatusCode.DEADLINE_EXCEEDED, 504


class Unavailable(ServiceError):
    code, grpc_status, http_status = "unavailable", StatusCode.UNAVAILABLE, 503


class InternalError(ServiceError):
    code, grpc_status, http_status = "internal_error", StatusCode.INTERNAL, 502


def error_types() -> dict[str, type[ServiceError]]:
    """All error types by their wire code."""
    return {cls.code: cls for cls in ServiceError.__subclasses__()}


def to_metadata(error: ServiceError) -> tuple[tuple[str, str], ...]:
    """Trailing metadata that lets the other end rebuild `error`."""
    pairs = [("fovea-code", error.code)]
    if error.param is not None:
        pairs.append(("fovea-param", error.param))
    if error.retry_after_s is not None:
        pairs.append(("fovea-retry-after-s", f"{error.retry_after_s:g}"))
    return tuple(pairs)


# What a status means when it came from gRPC itself (no `fovea-code`): the transport's own texts hold addresses, so
# none of them is passed on.
_TRANSPORT = {
    StatusCode.UNAVAILABLE: (Unavailable, "the {service} is not available; try again shortly"),
    StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, "the {service} did not finish within the deadline"),
    StatusCode.CANCELLED: (Cancelled, "the call to the {service} was cancelled"),
    StatusCode.UNAUTHENTICATED: (Unauthenticated, "the {service} does not accept the token of this gateway"),
    StatusCode.RESOURCE_EXHAUSTED: (TooLarge, "a message to or from the {service} is larger than it accepts"),
}


def from_rpc_error(error: grpc.aio.AioRpcError, service: str) -> ServiceError:
    """The ServiceError behind a failed call to `service` (a name for people: "encoder service")."""
    trailing = dict(tuple(error.trailing_metadata() or ()))  # grpc's Metadata is a mapping only in name
    known = error_types().get(str(trailing.get("fovea-code", "")))
    if known is not None:
        param, retry = trailing.get("fovea-param"), trailing.get("fovea-retry-after-s")
        return known(
            error.details() or "no details",
            param=str(param) if param is not None else None,
            retry_after_s=float(retry) if retry is not None else None,
        )
    # gRPC has one status for a message too large and for a server with all the calls in progress that it takes.
    if error.code() is StatusCode.RESOURCE_EXHAUSTED and "Concurrent RPC limit" in (error.details() or ""):
        return Overloaded(f"the {service} has as many calls in progress as it accepts", retry_after_s=1.0)
    cls, text = _TRANSPORT.get(error.code(), (InternalError, "the {service} answered with an unexpected error"))
    return cls(text.format(service=service), retry_after_s=1.0 if cls is Unavailable else None)
