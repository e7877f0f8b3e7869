"""Request ids, JSON logs and Prometheus metrics of all services."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import uuid
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "ENCODER_FORWARD_SECONDS",
    "ENCODER_QUEUE_WAIT_SECONDS",
    "FAILURES",
    "NUM_REQUESTS_RUNNING",
    "NUM_REQUESTS_WAITING",
    "QUEUE_WAIT_SECONDS",
    "REQUESTS",
    "REQUEST_ID_KEY",
    "REQUEST_LATENCY_SECONDS",
    "TIME_TO_FIRST_TOKEN_SECONDS",
    "VISUAL_TOKENS_KEPT",
    "VISUAL_TOKENS_TOTAL",
    "WIRE_BYTES",
    "configure_logging",
    "new_request_id",
    "report_load",
    "request_id",
]

REQUEST_ID_KEY: Final = "x-request-id"

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")

REQUESTS = Counter("fovea_requests_total", "Finished calls, by method and outcome.", ["method", "code"])
FAILURES = Counter("fovea_failures_total", "Failures that are not errors of a call, by kind.", ["kind"])
REQUEST_LATENCY_SECONDS = Histogram("fovea_request_latency_seconds", "Time from arrival to the last byte.", ["method"])
TIME_TO_FIRST_TOKEN_SECONDS = Histogram("fovea_time_to_first_token_seconds", "Time from arrival to the first token.")
NUM_REQUESTS_WAITING = Gauge("fovea_num_requests_waiting", "Requests that wait for the model.")
NUM_REQUESTS_RUNNING = Gauge(
    "fovea_num_requests_running", "Requests that the model runs; in a gateway: answers in progress."
)
# Requests that are aborted in the queue count too, so that a service that serves none in time does not look idle.
QUEUE_WAIT_SECONDS = Histogram("fovea_queue_wait_seconds", "Queue time of requests to the language model.")
ENCODER_QUEUE_WAIT_SECONDS = Histogram("fovea_encoder_queue_wait_seconds", "Queue time of requests to the encoder.")
ENCODER_FORWARD_SECONDS = Histogram(
    "fovea_encoder_forward_seconds", "Time of vision tower, text tower and pruner per batch."
)
VISUAL_TOKENS_TOTAL = Counter("fovea_visual_tokens_total", "Visual tokens before pruning.")
VISUAL_TOKENS_KEPT = Counter("fovea_visual_tokens_kept_total", "Visual tokens after pruning.")
WIRE_BYTES = Counter("fovea_wire_bytes_total", "Bytes of visual tokens sent to the LLM service.")


def report_load(*, waiting: Callable[[], int] = lambda: 0, running: Callable[[], int]) -> None:
    """Sets the functions that the gauges of waiting and running requests read at each scrape, in the scraping thread.

    Args:
        waiting: number of waiting requests; left out by a service without a queue.
        running: number of running requests.
    """
    NUM_REQUESTS_WAITING.set_function(waiting)
    NUM_REQUESTS_RUNNING.set_function(running)


def new_request_id() -> str:
    """Id for a request that came without one."""
    return uuid.uuid4().hex


class _JsonLines(logging.Formatter):
    """Log records as JSON objects, one per line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "service": self._service,
            "request_id": request_id.get(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(service: str, level: str = "info") -> None:
    """Sends the root logger to stderr as JSON lines. Call once, in `__main__`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
