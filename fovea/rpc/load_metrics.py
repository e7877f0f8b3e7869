"""Gauges of the load of a GPU service. The gateway does not import them, so that it has no series that stay at zero."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Gauge

__all__ = ["NUM_REQUESTS_RUNNING", "NUM_REQUESTS_WAITING", "report_load"]

NUM_REQUESTS_WAITING = Gauge("fovea_num_requests_waiting", "Requests that wait for the model.")
NUM_REQUESTS_RUNNING = Gauge("fovea_num_requests_running", "Requests that the model runs.")


def report_load(*, waiting: Callable[[], int], running: Callable[[], int]) -> None:
    """Sets the functions that the gauges of waiting and running requests read at each scrape, in the scraping thread.

    Args:
        waiting: number of waiting requests.
        running: number of running requests.
    """
    NUM_REQUESTS_WAITING.set_function(waiting)
    NUM_REQUESTS_RUNNING.set_function(running)
