"""Refusals by estimated queue time, with a clock that the test moves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from fovea.errors import Overloaded
from fovea.queue_admission import QueueAdmission
from tests.clock import Clock

Admission = Callable[..., QueueAdmission]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def queue(clock: Clock, registry: CollectorRegistry) -> QueueAdmission:
    """A queue of at most 64 requests and 10 s."""
    queue_times = Histogram("queue_seconds", "Queue time.", registry=registry)
    return QueueAdmission("LLM service", max_queue_size=64, max_queue_time_s=10.0, queue_times=queue_times, clock=clock)


def serve(queue: QueueAdmission, clock: Clock, *, starts: int, interval_s: float, lane: int = 0) -> None:
    queue.update(0, is_blocked=True, lane=lane)
    for _ in range(starts):
        clock.now += interval_s
        queue.update(1, is_blocked=True, lane=lane)


def refusals(reason: str) -> float:
    return REGISTRY.get_sample_value("fovea_refusals_total", {"reason": reason}) or 0.0


def test_a_request_that_would_wait_too_long_is_refused_and_told_when_there_is_room(
    queue: QueueAdmission, clock: Clock, registry: CollectorRegistry
) -> None:
    serve(queue, clock, starts=1000, interval_s=0.5)
    before = refusals("queue_time")
    queue.check(20, time_left_s=60.0)
    with pytest.raises(Overloaded, match=r"waiting for about 15 s; up to 10 s are accepted") as caught:
        queue.check(30, time_left_s=60.0)
    assert 5.0 <= (caught.value.retry_after_s or 0) <= 5.5
    assert refusals("queue_time") == before + 1
    # The autoscaler sees the queue time that was refused.
    assert registry.get_sample_value("queue_seconds_sum") == pytest.approx(15.0)
    # After that time as many have left that there is room.
    serve(queue, clock, starts=10, interval_s=0.5)
    queue.check(20, time_left_s=60.0)


def test_a_request_that_would_miss_its_deadline_is_refused(queue: QueueAdmission, clock: Clock) -> None:
    serve(queue, clock, starts=1000, interval_s=0.5)
    before = refusals("deadline")
    queue.check(8, time_left_s=8.0, compute_s=3.5)
    with pytest.raises(Overloaded, match=r"would take about 9\.0 s, longer than the deadline") as caught:
        queue.check(8, time_left_s=8.0, compute_s=5.0)
    assert caught.value.retry_after_s == 1.0
    assert refusals("deadline") == before + 1


def test_a_full_queue_is_refused_without_evidence(queue: QueueAdmission) -> None:
    before = refusals("queue_full")
    queue.check(63, time_left_s=0.001)
    with pytest.raises(Overloaded, match="64 requests waiting, as many as it accepts") as caught:
        queue.check(64, time_left_s=60.0)
    assert caught.value.retry_after_s == 1.0
    assert refusals("queue_full") == before + 1


def test_the_first_request_of_a_queue_is_never_refused(queue: QueueAdmission, clock: Clock) -> None:
    serve(queue, clock, starts=20, interval_s=30.0)
    queue.check(0, time_left_s=0.001, compute_s=math.inf)
    queue.update(1, is_blocked=False)  # nothing waits for capacity
    queue.check(5, time_left_s=60.0)


@pytest.mark.parametrize("stall_s", [12.0, 120.0])
def test_a_stall_does_not_lock_the_door(queue: QueueAdmission, clock: Clock, stall_s: float) -> None:
    serve(queue, clock, starts=40, interval_s=0.1)
    clock.now += stall_s
    queue.check(0, time_left_s=60.0)
    queue.update(1, is_blocked=True)
    serve(queue, clock, starts=10, interval_s=0.1)  # one second after the stall
    queue.check(4, time_left_s=60.0)
    serve(queue, clock, starts=300, interval_s=0.1)
    queue.check(30, time_left_s=60.0)


def test_lanes_move_independently(queue: QueueAdmission, clock: Clock) -> None:
    serve(queue, clock, starts=10, interval_s=20.0, lane=2)
    serve(queue, clock, starts=100, interval_s=0.1, lane=0)
    queue.check(12, num_ahead=10, lane=0, time_left_s=60.0)
    with pytest.raises(Overloaded):
        queue.check(12, num_ahead=2, lane=2, time_left_s=60.0)
    assert queue.queue_time_s(2, lane=2) == pytest.approx(40.0)
