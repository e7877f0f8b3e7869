"""Retry times of a queue after a burst: simulated clients that come back exactly when they were told to."""

from __future__ import annotations

import heapq
import itertools
import math
import random

import pytest
from prometheus_client import CollectorRegistry, Histogram

from fovea.errors import Overloaded
from fovea.queue_admission import QueueAdmission


class Service:
    """A service with `servers` servers and random service times of `service_s` seconds in the mean."""

    def __init__(self, *, servers: int, service_s: float) -> None:
        self.now = 1000.0
        self.num_retries = self.num_held = self.num_answered = 0
        self._random = random.Random(0)
        self._idle = servers
        self._service_s = service_s
        self._num_waiting = 0
        self._order = itertools.count()
        self._events: list[tuple[float, int, str]] = []
        queue_times = Histogram("queue_seconds", "Queue time.", registry=CollectorRegistry())
        self._queue = QueueAdmission(
            "service", max_queue_size=64, max_queue_time_s=10.0, queue_times=queue_times, clock=lambda: self.now
        )

    def run(self, *, warm_up: int, burst: int) -> None:
        """Some clients come at once, which shows the rate, then a burst within five seconds. Refused ones come back."""
        for _ in range(warm_up):
            self._at(0.0, "first")
        for _ in range(burst):
            self._at(5 * (1 + self._random.random()), "first")
        while self._events:
            self.now, _, kind = heapq.heappop(self._events)
            if kind == "end":
                self._idle += 1
                self.num_answered += 1
                self._start()
            else:
                self._ask(is_retry=kind == "retry")

    def _at(self, later_s: float, kind: str) -> None:
        heapq.heappush(self._events, (self.now + later_s, next(self._order), kind))

    def _ask(self, *, is_retry: bool) -> None:
        self.num_retries += is_retry
        try:
            self._queue.check(self._num_waiting, time_left_s=60.0)
        except Overloaded as error:
            self._at(math.ceil(error.retry_after_s or 0), "retry")  # as the header says
            return
        self.num_held += is_retry
        self._num_waiting += 1
        self._start()

    def _start(self) -> None:
        num_started = min(self._idle, self._num_waiting)
        self._idle -= num_started
        self._num_waiting -= num_started
        for _ in range(num_started):
            self._at(self._random.expovariate(1 / self._service_s), "end")
        self._queue.update(num_started, is_blocked=self._num_waiting > 0)


@pytest.mark.parametrize(("servers", "service_s", "burst"), [(1, 0.5, 100), (8, 4.0, 100), (1, 0.05, 900)])
def test_most_clients_that_wait_as_long_as_they_are_told_are_accepted(
    servers: int, service_s: float, burst: int
) -> None:
    service = Service(servers=servers, service_s=service_s)
    service.run(warm_up=30, burst=burst)
    assert service.num_answered == 30 + burst
    assert service.num_retries > burst // 2
    assert service.num_held >= 0.75 * service.num_retries
