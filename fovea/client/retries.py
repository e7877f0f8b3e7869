"""Retries of requests that the gateway refuses for the moment."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fovea.client.errors import AnswerError

__all__ = ["Attempts", "OnRetry", "retry_after_s"]

OnRetry = Callable[[AnswerError, float], object]
"""Function that is called before a wait, with the error of the refused attempt and the wait in seconds."""

_RETRIED: Final = (429, 503)
_FIRST_WAIT_S: Final = 0.5  # without Retry-After; doubles with each attempt
_LONGEST_WAIT_S: Final = 3600.0


def retry_after_s(headers: Mapping[str, str], error: Mapping[str, Any] | None = None) -> float | None:
    """Seconds after which to retry a request; None for unknown.

    Args:
        headers: headers of the response. `Retry-After` is a number of seconds or a date.
        error: object `error` of the response, whose `retry_after_s` counts where the header is missing.
    """
    header = headers.get("retry-after", "").strip()
    value = header or (error or {}).get("retry_after_s")
    try:
        seconds = float(value)  # type: ignore[arg-type]  # None is a TypeError
    except (TypeError, ValueError):
        seconds = _until(header)
    return min(max(seconds, 0.0), _LONGEST_WAIT_S) if math.isfinite(seconds) else None


def _until(date: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return math.nan


@dataclass
class Attempts:
    """Attempts of one request, and its deadline.

    Args:
        timeout_s: deadline of all attempts together, in seconds from now.
        max_retries: most attempts after the first one.
        on_retry: function that is told of each wait; None for none.
    """

    timeout_s: float
    max_retries: int
    on_retry: OnRetry | None = None

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.timeout_s
        self._retries = 0

    @property
    def remaining_s(self) -> float:
        """Seconds that the next attempt may take: `timeout_s` for the first one."""
        return self.timeout_s if self._retries == 0 else round(self._deadline - time.monotonic(), 3)

    def wait_s(self, error: AnswerError) -> float:
        """Seconds to wait before the next attempt, never fewer than the gateway asked for.

        Args:
            error: error of the last attempt.

        Raises:
            AnswerError: `error` itself, where it is not retried: it is none of a moment, there were `max_retries`
                attempts before, or the wait would end at or after the deadline.
        """
        wait = error.retry_after_s
        if wait is None:
            wait = _FIRST_WAIT_S * 2**self._retries
        too_late = time.monotonic() + wait >= self._deadline
        if error.status not in _RETRIED or self._retries >= self.max_retries or too_late:
            raise error
        self._retries += 1
        if self.on_retry is not None:
            self.on_retry(error, wait)
        return wait
