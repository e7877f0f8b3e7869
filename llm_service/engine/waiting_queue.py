"""The bounded queue between the event loop, which pushes, and the model thread, which pops."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from fovea.errors import Overloaded
from fovea.telemetry import FailureKind, count_failure
from llm_service.engine.errors import RETRY_AFTER_S, unavailable
from llm_service.engine.sequence import Sequence
from llm_service.metrics import QUEUE_WAIT_SECONDS

__all__ = ["WaitingQueue"]


class WaitingQueue:
    """Waiting sequences in order of arrival. Aborted ones do not count against `max_size` and are never popped."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._sequences: deque[Sequence] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._sequences)

    def push(self, sequence: Sequence) -> None:
        """Appends a sequence without blocking.

        Raises:
            Overloaded: The queue is full; carries a retry time.
            Unavailable: The queue is closed.
        """
        with self._changed:
            if self._closed:
                raise unavailable("is shutting down")
            if len(self._sequences) >= self._max_size:
                self._remove_aborted()
            if len(self._sequences) >= self._max_size:
                raise Overloaded(
                    f"the LLM service has {self._max_size} requests waiting, its limit; try again shortly",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._sequences.append(sequence)
            self._changed.notify_all()

    def pop(self, limit: int, admits: Callable[[Sequence], bool] = lambda _: True) -> list[Sequence]:
        """Removes and returns up to `limit` waiting sequences; may return none.

        Args:
            limit: Most sequences to return.
            admits: Function that reserves memory for a sequence, called in order of arrival; False leaves it waiting.
        """
        popped: list[Sequence] = []
        with self._changed:
            self._remove_aborted()
            for sequence in list(self._sequences):
                if len(popped) < limit and admits(sequence):
                    popped.append(sequence)
                    self._sequences.remove(sequence)
        _observe_queue_time(popped)
        return popped

    def wait(self, limit: int, delay_s: float) -> None:
        """Blocks until a sequence waits or the queue is closed, then up to `delay_s` until `limit` sequences wait."""
        with self._changed:
            self._changed.wait_for(lambda: self._sequences or self._closed)
            self._changed.wait_for(lambda: self._num_not_aborted() >= limit or self._closed, timeout=delay_s)

    def close(self) -> list[Sequence]:
        """Closes the queue and returns the sequences that still wait."""
        with self._changed:
            self._closed = True
            sequences = list(self._sequences)
            self._sequences.clear()
            self._changed.notify_all()
            return sequences

    def _num_not_aborted(self) -> int:
        return sum(not sequence.aborted for sequence in self._sequences)

    def _remove_aborted(self) -> None:
        aborted = {sequence for sequence in self._sequences if sequence.aborted}
        count_failure(FailureKind.GENERATION_ABORTED_WAITING, len(aborted))
        _observe_queue_time(aborted)
        self._sequences = deque(sequence for sequence in self._sequences if sequence not in aborted)


def _observe_queue_time(sequences: Iterable[Sequence]) -> None:
    for sequence in sequences:
        QUEUE_WAIT_SECONDS.observe(sequence.age_s)
