"""Measured rates, with a clock that the test moves."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fovea.service_rate import MAX_RETRY_S, MEMORY_S, MIN_RETRY_S, RecentMean, RetryTimes, ServiceRate
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rate(clock: Clock) -> ServiceRate:
    return ServiceRate(clock)


def serve(rate: ServiceRate, clock: Clock, *, starts: int, interval_s: float, group: int = 1) -> None:
    """Groups of requests leave a queue that stays blocked."""
    rate.update(0, is_blocked=True)
    for _ in range(starts // group):
        clock.now += interval_s * group
        rate.update(group, is_blocked=True)


def test_the_mean_is_per_unit_and_needs_three_measurements(clock: Clock) -> None:
    mean = RecentMean()
    mean.add(2.0, 4, clock.now)
    mean.add(2.0, 4, clock.now)
    assert mean.mean(clock.now) is None
    mean.add(8.0, 4, clock.now)
    assert mean.mean(clock.now) == pytest.approx(1.0)
    assert mean.mean(clock.now + MEMORY_S) is None


def test_there_is_no_estimate_before_three_starts(rate: ServiceRate, clock: Clock) -> None:
    serve(rate, clock, starts=2, interval_s=30.0)
    assert rate.interval_s is None
    assert rate.least_interval_s is None


@pytest.mark.parametrize("group", [1, 8])
def test_the_estimate_is_the_interval_of_a_steady_queue(rate: ServiceRate, clock: Clock, group: int) -> None:
    serve(rate, clock, starts=160, interval_s=2.0, group=group)
    assert rate.interval_s == pytest.approx(2.0)
    # Until the next group is due, waiting for it changes nothing.
    clock.now += 2.0 * group
    assert rate.interval_s == pytest.approx(2.0)


def test_the_least_interval_approaches_the_mean_with_evidence(rate: ServiceRate, clock: Clock) -> None:
    serve(rate, clock, starts=4, interval_s=0.1)
    assert rate.interval_s is not None
    assert rate.least_interval_s is not None
    assert rate.least_interval_s < 0.7 * rate.interval_s
    serve(rate, clock, starts=1000, interval_s=0.1)
    assert rate.least_interval_s > 0.93 * rate.interval_s


def test_requests_that_never_wait_are_no_evidence(rate: ServiceRate, clock: Clock) -> None:
    for _ in range(100):
        clock.now += 5.0
        rate.update(1, is_blocked=False)
    assert rate.interval_s is None


def test_a_queue_that_does_not_move_becomes_slower_and_is_not_forgotten(rate: ServiceRate, clock: Clock) -> None:
    serve(rate, clock, starts=20, interval_s=0.1)
    estimates = []
    for _ in range(5):
        clock.now += 20.0
        estimates.append(rate.interval_s or 0.0)
    assert estimates == sorted(set(estimates))
    assert estimates[-1] > 1.0


@pytest.mark.parametrize("stall_s", [5.0, 60.0, 3600.0])
def test_a_stall_is_outweighed_soon(rate: ServiceRate, clock: Clock, stall_s: float) -> None:
    serve(rate, clock, starts=100, interval_s=0.2)
    clock.now += stall_s
    rate.update(1, is_blocked=True)
    serve(rate, clock, starts=50, interval_s=0.2)  # ten seconds
    assert rate.interval_s is not None
    assert rate.interval_s < 4 * 0.2


def test_evidence_is_forgotten_while_nothing_waits(rate: ServiceRate, clock: Clock) -> None:
    serve(rate, clock, starts=10, interval_s=20.0)
    rate.update(1, is_blocked=False)
    assert rate.interval_s is not None
    clock.now += 2 * MEMORY_S
    assert rate.interval_s is None


def test_refused_clients_come_back_one_for_each_start(clock: Clock) -> None:
    times = RetryTimes(clock, lambda low, high: low)
    assert [times.next_s(5.0, 2.0) for _ in range(4)] == [5.0, 7.0, 9.0, 11.0]
    clock.now += 100.0
    assert times.next_s(5.0, 2.0) == 5.0


def test_retry_times_are_bounded_and_never_shortened(clock: Clock) -> None:
    times = RetryTimes(clock, random.Random(0).uniform)
    assert times.next_s(0.0, None) == MIN_RETRY_S
    for _ in range(200):
        exact: Any = max(times._last + 1.0 - clock.now, 20.0)
        assert min(exact, MAX_RETRY_S) <= times.next_s(20.0, 1.0) <= MAX_RETRY_S
