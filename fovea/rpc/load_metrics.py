"""Gauges of the load of a GPU service. The gateway does not import them, so that it has no series that stay at zero."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Gauge

__all__ = ["ESTIMATED_QUEUE_TIME_SECONDS", "NUM_REQUESTS_RUNNING", "NUM_REQUESTS_WAITING", "report_load"]

NUM_REQUESTS_WAITING = Gauge("fovea_num_requests_waiting", "Requests that wait for the model.")
NUM_REQUESTS_RUNNING = Gauge("fovea_num_requests_running", "Requests that the model runs.")
ESTIMATED_QUEUE_TIME_SECONDS = Gauge(
    "fovea_estimated_queue_time_seconds", "Estimated queue time of the next request; 0 without evidence."
)


def report_load(*, waiting: Callable[[], int], running: Callable[[], int], queue_time_s: Callable[[], float]) -> None:
    """Sets the functions that the gauges read at each scrape, in the scraping thread.

    Args:
        waiting: number of waiting requests.
        running: number of running requests.
        queue_time_s: estimated queue time of the next request, in seconds.
    """
    NUM_REQUESTS_WAITING.set_function(waiting)
    NUM_REQUESTS_RUNNING.set_function(running)
    ESTIMATED_QUEUE_TIME_SECONDS.set_function(queue_time_s)
