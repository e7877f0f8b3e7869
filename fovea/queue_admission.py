"""Admission to the queue of a GPU service: what cannot be finished in time is refused at once.

The queue time is estimated from the rate at which the queue has moved (`fovea.service_rate`). No request is refused
while nothing waits for capacity, nor without evidence. See docs/adr/0033-admission-by-what-can-be-done.md.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from prometheus_client import Histogram

from fovea.errors import Overloaded
from fovea.service_rate import RetryTimes, ServiceRate
from fovea.telemetry import Refusal, count_refusal

__all__ = ["QueueAdmission"]


class _Lane:
    """Requests that need the same kind of capacity."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.rate = ServiceRate(clock)
        self.retry = RetryTimes(clock)


class QueueAdmission:
    """Decides which requests may wait. It is not thread-safe.

    A queue has one lane for each kind of capacity, such as the slots of one length. The lanes move independently.

    Args:
        service: Name of the service for messages.
        max_queue_size: Largest number of waiting requests.
        max_queue_time_s: Longest estimated queue time of an accepted request, in seconds.
        queue_times: Histogram of queue times. It receives the estimated queue time of refused requests, so that a
            service that refuses does not look idle.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        service: str,
        *,
        max_queue_size: int,
        max_queue_time_s: float,
        queue_times: Histogram,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_queue_size = max_queue_size
        self._service = service
        self._max_queue_time_s = max_queue_time_s
        self._queue_times = queue_times
        self._lanes: defaultdict[int, _Lane] = defaultdict(lambda: _Lane(clock))

    @property
    def lanes(self) -> tuple[int, ...]:
        """Lanes that have been used."""
        return tuple(self._lanes)

    def update(self, num_started: int, *, is_blocked: bool, lane: int = 0) -> None:
        """Records the state of a lane, see `ServiceRate.update`."""
        self._lanes[lane].rate.update(num_started, is_blocked=is_blocked)

    def queue_time_s(self, num_ahead: int, *, lane: int = 0) -> float:
        """Estimated seconds until a new request behind `num_ahead` others starts; 0 without evidence."""
        rate = self._lanes[lane].rate
        return num_ahead * (rate.interval_s or 0.0) if rate.is_blocked else 0.0

    def check(
        self,
        num_waiting: int,
        *,
        time_left_s: float,
        compute_s: float = 0.0,
        lane: int = 0,
        num_ahead: int | None = None,
    ) -> None:
        """Refuses a request that cannot be served in time.

        Args:
            num_waiting: Number of waiting requests in the queue.
            time_left_s: Seconds until the deadline of the request.
            compute_s: Expected seconds of its computation, without the queue time.
            lane: Lane of the request.
            num_ahead: Number of waiting requests in the same lane; None for `num_waiting`.

        Raises:
            Overloaded: The queue is full, or the request would not be done in time. The error has the seconds after
                which there will be room.
        """
        num_ahead = num_waiting if num_ahead is None else num_ahead
        one = self._lanes[lane]
        least_s = num_ahead * (one.rate.least_interval_s or 0.0) if one.rate.is_blocked else 0.0
        if num_waiting >= self.max_queue_size:
            text = f"{num_waiting} requests waiting, as many as it accepts"
            raise self._refused(Refusal.QUEUE_FULL, text, one, num_ahead, room_s=one.rate.interval_s or 0.0)
        if not least_s:  # also where nothing waits: that request shows whether the estimate still holds
            return
        queue_s = self.queue_time_s(num_ahead, lane=lane)
        if least_s > self._max_queue_time_s:
            text = f"requests waiting for about {queue_s:.0f} s; up to {self._max_queue_time_s:g} s are accepted"
            room_s = queue_s - self._max_queue_time_s
            raise self._refused(Refusal.QUEUE_TIME, text, one, num_ahead, room_s=room_s)
        if least_s + compute_s > time_left_s:
            text = f"requests waiting, and would take about {queue_s + compute_s:.1f} s, longer than the deadline"
            room_s = queue_s - max(time_left_s - compute_s, 0.0)
            raise self._refused(Refusal.DEADLINE, text, one, num_ahead, room_s=room_s)

    def _refused(self, reason: Refusal, text: str, lane: _Lane, num_ahead: int, *, room_s: float) -> Overloaded:
        count_refusal(reason)
        interval_s = lane.rate.interval_s
        if interval_s is not None:
            self._queue_times.observe(num_ahead * interval_s)
        return Overloaded(
            f"the {self._service} has {text}; try again later",
            retry_after_s=round(lane.retry.next_s(room_s, interval_s), 1),
        )
