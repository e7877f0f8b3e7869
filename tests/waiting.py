"""Waiting for what another process does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float,
    explanation: Callable[[], str] = lambda: "",
    pause_s: float = 0.05,
) -> None:
    """Returns once `condition` holds; fails after `timeout_s` seconds with what `explanation` tells.

    Args:
        condition: function that is called again and again.
        timeout_s: seconds until the failure.
        explanation: function that is called at the failure.
        pause_s: seconds between two calls of `condition`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {explanation()}"
        time.sleep(pause_s)
