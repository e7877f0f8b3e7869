"""Request ids, JSON logs, and the Prometheus metrics that mean the same in all services.

What one service alone measures stands in its own `metrics.py`.
"""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import uuid
from enum import StrEnum
from typing import Final

from prometheus_client import Counter, Histogram

__all__ = [
    "FAILURES",
    "REQUESTS",
    "REQUEST_ID_KEY",
    "REQUEST_LATENCY_SECONDS",
    "FailureKind",
    "configure_logging",
    "count_failure",
    "new_request_id",
    "request_id",
]

REQUEST_ID_KEY: Final = "x-request-id"

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")

REQUESTS = Counter("fovea_requests_total", "Finished calls, by method and outcome.", ["method", "code"])
FAILURES = Counter("fovea_failures_total", "Failures by kind, whether or not a caller sees an error.", ["kind"])
REQUEST_LATENCY_SECONDS = Histogram("fovea_request_latency_seconds", "Time from arrival to the last byte.", ["method"])


class FailureKind(StrEnum):
    """Kind of a failure. `fovea_requests_total` counts the errors of calls; this counts what went wrong behind them."""

    ACCEPT = "accept"
    """A connection could not be accepted: the process has no file descriptor left, or the system no memory."""
    BATCH_SPLIT = "encoder_batch"
    """A batch of the encoder failed and was repeated request by request."""
    CACHE_ENTRY = "cache_entry"
    """An entry of the gateway's caches could not be read, was not signed for its key, or was refused by a service."""
    CLIENT_STALLED = "client_stalled"
    """A client did not read its response; the connection was closed."""
    CONNECTION_REFUSED = "connection_refused"
    """A connection beyond the limits, in all or of one address, was closed."""
    CUDA_GRAPH = "cuda_graph"
    """A CUDA graph could not be captured, or its outputs differed; the function runs without it."""
    CREDENTIALS = "credentials"
    """Renewed certificates, keys or tokens could not be used; the ones before stay."""
    ENGINE_DIED = "engine_died"
    """The engine of the LLM service ended."""
    FETCH = "fetch"
    """Media behind a URL could not be fetched."""
    GENERATION_ABORTED = "generation_abandoned"
    """A caller left, or its deadline passed, while its sequence was running."""
    GENERATION_ABORTED_WAITING = "generation_abandoned_in_queue"
    """A caller left, or its deadline passed, while its request was waiting."""
    HANDSHAKE = "handshake"
    """A TLS handshake failed, or did not end in time."""
    MODEL_INFO = "info"
    """A service did not answer with its model and limits; the ones known before are used."""
    OUTAGE = "outage"
    """A service that could not be reached during a request was found again; the request went on."""
    PREFILL_SPLIT = "prefill_apart"
    """A prefill of several prompts failed and was repeated prompt by prompt."""
    REDIS = "redis"
    """Redis did not answer; the request went on without it."""
    REPLICA_OVERLOADED = "replica_overloaded"
    """An overloaded replica refused a request; the gateway tried another."""
    WORKER_DIED = "worker_died"
    """A worker process ended in the middle of its task."""
    WORKER_START = "worker_start"
    """A worker process could not be started."""
    WORKER_TIMEOUT = "worker_timeout"
    """A worker process took too long and was killed."""


def count_failure(kind: FailureKind, count: int = 1) -> None:
    """Adds `count` to the failures of a kind."""
    FAILURES.labels(kind).inc(count)


def new_request_id() -> str:
    """Id for a request that came without one."""
    return uuid.uuid4().hex


class _JsonLines(logging.Formatter):
    """Log records as JSON objects, one per line. Values of a record's `fields` are values of the object."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(service: str, level: str = "info") -> None:
    """Sends the root logger to stderr as JSON lines. Call once, in `__main__`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
