"""Request ids, JSON logs, and the Prometheus metrics that mean the same in all services.

What one service alone measures stands in its own `metrics.py`.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import sys
import time
from enum import StrEnum
from functools import lru_cache
from typing import Final

from prometheus_client import Counter, Histogram
from pydantic_core import PydanticSerializationError, to_json

__all__ = [
    "BATCH_BUCKETS",
    "CACHE_LOOKUPS",
    "FAILURES",
    "REFUSALS",
    "REQUESTS",
    "REQUEST_ID_KEY",
    "REQUEST_LATENCY_SECONDS",
    "SECONDS_BUCKETS",
    "FailureKind",
    "Refusal",
    "configure_logging",
    "count_failure",
    "count_refusal",
    "new_request_id",
    "request_id",
]

REQUEST_ID_KEY: Final = "x-request-id"

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")

SECONDS_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0
)  # fmt: skip
"""Bounds of histograms of times in seconds, from a forward of a small model to the longest deadline."""

BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Bounds of histograms of batch sizes."""

REQUESTS = Counter("fovea_requests_total", "Finished calls, by method and outcome.", ["method", "code"])
FAILURES = Counter("fovea_failures_total", "Failures by kind, whether or not a caller sees an error.", ["kind"])
REFUSALS = Counter("fovea_refusals_total", "Requests that were refused for load or a limit, by reason.", ["reason"])
CACHE_LOOKUPS = Counter("fovea_cache_lookups_total", "Look-ups in caches, by cache and outcome.", ["level", "outcome"])
REQUEST_LATENCY_SECONDS = Histogram(
    "fovea_request_latency_seconds",
    "Time from arrival to the last byte of successful calls.",
    ["method"],
    buckets=SECONDS_BUCKETS,
)


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
    CONNECTION_REPLACED = "connection_replaced"
    """An idle connection was closed for a new one, because all places were taken. A request that its client had just
    sent is lost with it."""
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
    SPANS = "trace_spans"
    """A span of a trace was dropped: the collector does not answer, or there are too many."""
    WORKER_DIED = "worker_died"
    """A worker process ended in the middle of its task."""
    WORKER_START = "worker_start"
    """A worker process could not be started."""
    WORKER_TIMEOUT = "worker_timeout"
    """A worker process took too long and was killed."""


class Refusal(StrEnum):
    """Reason of a refusal: load, or a limit of the client."""

    ANSWERS_RUNNING = "answers_running"
    """The gateway has its largest number of answers in progress."""
    BODIES = "bodies"
    """The gateway reads its largest number of request bodies."""
    BODY_BYTES = "body_bytes"
    """The request bodies in the gateway have their most bytes, or the client has its share of them."""
    BYTES_IN_FLIGHT = "bytes_in_flight"
    """The calls in progress in a service hold their most bytes."""
    CLIENT_CONCURRENCY = "client_concurrency"
    """The client has its largest number of questions in progress."""
    CLIENT_PIXELS = "client_pixels"
    """The client has sent its most pixels in a minute."""
    CLIENT_REQUESTS = "client_requests"
    """The client has sent its most requests in a minute."""
    CLIENT_SHARE = "client_share"
    """The client has its share of the answers in progress."""
    DEADLINE = "deadline"
    """The request could not be finished within its deadline."""
    QUEUE_FULL = "queue_full"
    """The queue of a service has its largest number of requests."""
    QUEUE_TIME = "queue_time"
    """The request would have to wait longer than `max_queue_time_s`."""


# All kinds exist from the start: the first failure of a kind is then an increase, which rules of Prometheus see.
for _kind in FailureKind:
    FAILURES.labels(_kind)
for _reason in Refusal:
    REFUSALS.labels(_reason)


def count_refusal(reason: Refusal) -> None:
    """Counts a refused request."""
    REFUSALS.labels(reason).inc()


def count_failure(kind: FailureKind, count: int = 1) -> None:
    """Adds `count` to the failures of a kind."""
    FAILURES.labels(kind).inc(count)


def new_request_id() -> str:
    """Id for a request that came without one: 128 random bits in hexadecimal."""
    return os.urandom(16).hex()


class _JsonLines(logging.Formatter):
    """Log records as JSON objects, one per line. Values of a record's `fields` are values of the object."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{_local_time(int(record.created))}.{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return to_json(line).decode()
        except PydanticSerializationError:  # half a surrogate pair, which is no character
            return json.dumps(line)


@lru_cache(maxsize=1)
def _local_time(second: int) -> str:
    """Local time of a Unix time. Many lines are of the same second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))


def configure_logging(service: str, level: str = "info") -> None:
    """Sends the root logger to stderr as JSON lines. Call once, in `__main__`."""
    # What the lines do not have need not be looked up for each of them; `_srcfile` is documented for this.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
