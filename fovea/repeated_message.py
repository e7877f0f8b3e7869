"""Log line about something that may happen thousands of times a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["RepeatedMessage"]


class RepeatedMessage:
    """Log line that is written at most once per interval, with the number of times since the last one.

    Args:
        log: Logger.
        level: Severity of the line.
        interval_s: Least seconds between two lines.
        clock: Function to the time in seconds.
    """

    def __init__(
        self, log: logging.Logger, level: int, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._level = level
        self._interval_s = interval_s
        self._clock = clock
        self._next_at = -float("inf")
        self._num_unwritten = 0

    def write(self, text: str) -> None:
        """Writes the line, or counts it if the last one is too recent."""
        now = self._clock()
        if now < self._next_at:
            self._num_unwritten += 1
            return
        suffix = f" ({self._num_unwritten} more since the last such line)" if self._num_unwritten else ""
        self._log.log(self._level, "%s%s", text, suffix)
        self._next_at, self._num_unwritten = now + self._interval_s, 0
