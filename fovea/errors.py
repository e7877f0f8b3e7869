"""Errors that a service may answer with, and the gRPC and HTTP status of each.

ServiceError
├── MalformedRequest    INVALID_ARGUMENT     400  the message cannot be parsed
├── NotFound            NOT_FOUND            404  unknown model or pruner
├── TooLarge            OUT_OF_RANGE         413  more bytes, pixels or tokens than accepted
├── UnsupportedMedia    INVALID_ARGUMENT     415  not an image or video that can be decoded
├── InvalidRequest      INVALID_ARGUMENT     422  a field has a value that is not accepted
├── CheckpointMismatch  FAILED_PRECONDITION  502  visual tokens come from another checkpoint or version
├── Overloaded          RESOURCE_EXHAUSTED   429  the queue is full; retry later
├── Unauthenticated     UNAUTHENTICATED      502  the gateway sent no bearer token of an accepted site
├── Cancelled           CANCELLED            499  the caller has ended the call
├── DeadlineExceeded    DEADLINE_EXCEEDED    504  the caller's deadline has passed
├── Unavailable         UNAVAILABLE          503  the service is down, starting or draining
└── InternalError       INTERNAL             502  a defect of a service; details are in its log only

A message states what is wrong and what is accepted. It is sent to the caller as it is, so it never contains a path, an
address or a stack trace. Over gRPC an error is its status and the trailing metadata `fovea-code`, `fovea-param` and
`fovea-retry-after-s`, from which `from_rpc_error` rebuilds it. Overloaded also has `fovea-replica`.
"""

from __future__ import annotations

from typing import ClassVar, Self

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
    """Base of all errors that a caller may receive.

    Args:
        message: text for the caller: what is wrong and what is accepted.
        param: field of the request that is wrong; None for none.
        retry_after_s: seconds after which to retry; None for unknown.
    """

    code: ClassVar[str]
    grpc_status: ClassVar[grpc.StatusCode]
    http_status: ClassVar[int]

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def renamed(self, param: str | None) -> Self:
        """A new error that differs in `param` only, for a caller whose request names the field otherwise."""
        return type(self)(self.message, param=param, retry_after_s=self.retry_after_s)


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
    """A request is refused because there are too many.

    Attributes:
        replica: random id of the server process that refused, so that another one can be called; empty for unknown.
    """

    code, grpc_status, http_status = "overloaded", StatusCode.RESOURCE_EXHAUSTED, 429
    replica: str = ""


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
    """Error types by their code in `fovea-code`."""
    return {cls.code: cls for cls in ServiceError.__subclasses__()}


def to_metadata(error: ServiceError) -> tuple[tuple[str, str], ...]:
    """Trailing metadata from which `from_rpc_error` rebuilds `error`."""
    pairs = [("fovea-code", error.code)]
    if error.param is not None:
        pairs.append(("fovea-param", error.param))
    if error.retry_after_s is not None:
        pairs.append(("fovea-retry-after-s", f"{error.retry_after_s:g}"))
    if isinstance(error, Overloaded) and error.replica:
        pairs.append(("fovea-replica", error.replica))
    return tuple(pairs)


# Errors of statuses that gRPC itself set, without `fovea-code`. gRPC's texts contain addresses, so they are replaced.
_TRANSPORT = {
    StatusCode.UNAVAILABLE: (Unavailable, "the {service} is not available; try again shortly"),
    StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, "the {service} did not finish within the deadline"),
    # Set by a server that stops while the call runs: a caller that cancels gets no reply.
    StatusCode.CANCELLED: (Unavailable, "the {service} ended the call; try again shortly"),
    StatusCode.UNAUTHENTICATED: (Unauthenticated, "the {service} does not accept the bearer token of this gateway"),
    StatusCode.RESOURCE_EXHAUSTED: (TooLarge, "a message to or from the {service} is larger than it accepts"),
}


def from_rpc_error(error: grpc.aio.AioRpcError, service: str) -> ServiceError:
    """ServiceError of a failed call.

    Args:
        error: error of the call.
        service: name of the called service for the message, such as "encoder service".
    """
    trailing = dict(tuple(error.trailing_metadata() or ()))  # grpc's Metadata lacks parts of the mapping protocol
    known = error_types().get(str(trailing.get("fovea-code", "")))
    if known is not None:
        param, retry = trailing.get("fovea-param"), trailing.get("fovea-retry-after-s")
        rebuilt = known(
            error.details() or "no details",
            param=str(param) if param is not None else None,
            retry_after_s=float(retry) if retry is not None else None,
        )
        if isinstance(rebuilt, Overloaded):
            rebuilt.replica = str(trailing.get("fovea-replica", ""))
        return rebuilt
    # gRPC has one status for a message that is too large and for a server with its maximum of calls in progress.
    if error.code() is StatusCode.RESOURCE_EXHAUSTED and "Concurrent RPC limit" in (error.details() or ""):
        return Overloaded(f"the {service} has as many calls in progress as it accepts", retry_after_s=1.0)
    cls, text = _TRANSPORT.get(error.code(), (InternalError, "the {service} answered with an unexpected error"))
    return cls(text.format(service=service), retry_after_s=1.0 if cls is Unavailable else None)
