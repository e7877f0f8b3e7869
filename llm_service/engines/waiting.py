"""The bounded queue between the event loop, which pushes, and the model thread, which takes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from fovea.errors import Overloaded
from fovea.telemetry import FAILURES, QUEUE_WAIT_SECONDS
from llm_service.engines.failures import RETRY_AFTER_S, unavailable
from llm_service.engines.row import Row

__all__ = ["WaitingQueue"]


class WaitingQueue:
    """First come, first served. Rows whose caller has left take no place and are never handed out."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._rows: deque[Row] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._rows)

    def push(self, row: Row) -> None:
        """Adds a row, never waiting.

        Raises:
            Overloaded: The queue is full; says when to try again.
            Unavailable: The queue is closed.
        """
        with self._changed:
            if self._closed:
                raise unavailable("is shutting down")
            if len(self._rows) >= self._max_size:
                self._forget_departed()
            if len(self._rows) >= self._max_size:
                raise Overloaded(
                    f"the LLM service has {self._max_size} requests waiting, its limit; try again shortly",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._rows.append(row)
            self._changed.notify_all()

    def take(self, limit: int) -> list[Row]:
        """Up to `limit` rows that wait now; perhaps none."""
        with self._changed:
            self._forget_departed()
            taken = [self._rows.popleft() for _ in range(min(limit, len(self._rows)))]
        _observe_wait(taken)
        return taken

    def wait(self, limit: int, delay_s: float) -> None:
        """Blocks until a row waits or the queue is closed; then until `limit` rows wait, but at most `delay_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._closed)
            self._changed.wait_for(lambda: self._num_staying() >= limit or self._closed, timeout=delay_s)

    def close(self) -> list[Row]:
        """Refuses rows from now on and returns those that still wait."""
        with self._changed:
            self._closed = True
            rows = list(self._rows)
            self._rows.clear()
            self._changed.notify_all()
            return rows

    def _num_staying(self) -> int:
        return sum(not row.departed for row in self._rows)

    def _forget_departed(self) -> None:
        departed = {row for row in self._rows if row.departed}
        FAILURES.labels("generation_abandoned_in_queue").inc(len(departed))
        _observe_wait(departed)
        self._rows = deque(row for row in self._rows if row not in departed)


def _observe_wait(leaving: Iterable[Row]) -> None:
    for row in leaving:
        QUEUE_WAIT_SECONDS.observe(row.age_s)
