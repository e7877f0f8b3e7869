"""Signals that ask a command to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from fovea.cli.terminal import StopSignal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONG_S = 60.0


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield StopSignal()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_wait_ends_it_at_once(stop: StopSignal, number: signal.Signals) -> None:
    assert not stop.is_set()
    os.kill(os.getpid(), number)
    assert stop.wait(LONG_S)
    assert stop.is_set()


def test_a_signal_during_the_wait_ends_it(stop: StopSignal) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    assert stop.wait(LONG_S)


def test_signals_that_interrupt_each_other_do_not_block(stop: StopSignal) -> None:
    """A pipe holds 65,536 bytes on Linux; more signals than that are no error either."""
    for _ in range(70_000):
        signal.raise_signal(signal.SIGINT)
    assert stop.wait(LONG_S)


def test_without_a_signal_the_wait_ends_with_its_time(stop: StopSignal) -> None:
    assert not stop.wait(0.01)
