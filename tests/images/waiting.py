"""Waiting for what a container does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["wait_until"]

_PAUSE_S = 0.2


def wait_until(condition: Callable[[], bool], timeout_s: float, explanation: Callable[[], str] = lambda: "") -> None:
    """Returns once `condition` holds; fails after `timeout_s` seconds with what `explanation` tells."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {explanation()}"
        time.sleep(_PAUSE_S)
