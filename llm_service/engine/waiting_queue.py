"""The bounded queue between the event loop, which pushes, and the model thread, which pops.

A sequence that cannot be answered in time is refused, see `fovea.queue_admission`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from fovea.queue_admission import QueueAdmission
from fovea.telemetry import FailureKind, count_failure
from llm_service.engine.answer_times import AnswerTimes
from llm_service.engine.errors import unavailable
from llm_service.engine.sequence import Sequence
from llm_service.metrics import QUEUE_WAIT_SECONDS

__all__ = ["WaitingQueue"]


class WaitingQueue:
    """Waiting sequences in order of arrival. Aborted ones do not count against `max_size` and are never popped.

    Args:
        max_size: Largest number of waiting sequences.
        max_queue_time_s: Longest estimated queue time of an accepted sequence, in seconds.
        answer_times: Measured times of answers.
        lane_of: Function from a sequence to the kind of capacity that it waits for, such as a slot of some length.
        clock: Monotonic clock in seconds, for the estimates.
    """

    def __init__(
        self,
        max_size: int,
        *,
        max_queue_time_s: float,
        answer_times: AnswerTimes,
        lane_of: Callable[[Sequence], int] = lambda _: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_size = max_size
        self._answer_times = answer_times
        self._lane_of = lane_of
        self._admission = QueueAdmission(
            "LLM service",
            max_queue_size=max_size,
            max_queue_time_s=max_queue_time_s,
            queue_times=QUEUE_WAIT_SECONDS,
            clock=clock,
        )
        self._sequences: deque[Sequence] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def queue_time_s(self) -> float:
        """Estimated queue time of the next sequence, in seconds; 0 without evidence. The longest of all lanes."""
        with self._changed:
            waiting = Counter(map(self._lane_of, self._sequences))
            return max((self._admission.queue_time_s(count, lane=lane) for lane, count in waiting.items()), default=0.0)

    def push(self, sequence: Sequence) -> None:
        """Appends a sequence without blocking.

        Raises:
            Overloaded: The queue is full, or the answer cannot be finished in time; carries a retry time.
            Unavailable: The queue is closed.
        """
        with self._changed:
            if self._closed:
                raise unavailable("is shutting down")
            if len(self._sequences) >= self._max_size:
                self._remove_aborted()
            lane = self._lane_of(sequence)
            self._admission.check(
                len(self._sequences),
                time_left_s=sequence.request.deadline - time.monotonic(),
                compute_s=self._answer_times.expected_s(sequence),
                lane=lane,
                num_ahead=sum(not ahead.aborted and self._lane_of(ahead) == lane for ahead in self._sequences),
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
            self._observe_starts(popped)
        _observe_queue_time(popped)
        return popped

    def _observe_starts(self, popped: Iterable[Sequence]) -> None:
        """Tells the admission what has left each lane. What `pop` leaves behind waits for capacity."""
        num_started, left = Counter(map(self._lane_of, popped)), Counter(map(self._lane_of, self._sequences))
        for lane in {*self._admission.lanes, *left}:
            self._admission.update(num_started[lane], is_blocked=left[lane] > 0, lane=lane)

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
