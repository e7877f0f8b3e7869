"""Measured times of the two stages of an answer, as this gateway sees them, and refusals by them.

A service admits by its own queue alone. The gateway sees both stages: it refuses at once an answer that would not be
done by its deadline, and leaves time for the generation when it calls the encoder service. See
docs/adr/0033-admission-by-what-can-be-done.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from fovea.errors import DeadlineExceeded, Overloaded
from fovea.service_rate import RecentMean, RetryTimes
from fovea.telemetry import Refusal, count_refusal
from gateway.core.deadlines import now, time_left

__all__ = ["AnswerStages", "StageTimes"]

_MAX_RESERVED: Final = 0.25
"""Largest share of the time left that an encode call leaves for the generation."""
_MARGIN: Final = 1.25
"""Expected times over the means. Without it, an overloaded queue stays so long that half of its answers just miss their
deadline."""
_MAX_GROWTH: Final = 2.0
"""Largest expected slowdown by more answers in progress than were measured, since services may batch them."""


class StageTimes:
    """Recent times of encode calls and generations. It is not thread-safe.

    Args:
        clock: Monotonic clock in seconds.

    Attributes:
        num_running: Number of answers in progress.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_running = 0
        self.clock = clock
        self._encode = RecentMean()  # seconds per encode call
        self._first_token = RecentMean()  # seconds per generation until its first token
        self._decode = RecentMean()  # seconds per token after the first
        self._tokens = RecentMean()  # tokens after the first per generation
        self._load = RecentMean()  # answers in progress per measurement
        self._retry = RetryTimes(clock)

    @contextmanager
    def answer(self, *, deadline: float, max_tokens: int) -> Iterator[AnswerStages]:
        """Stages of one answer, which is in progress meanwhile.

        Args:
            deadline: Event-loop time in seconds.
            max_tokens: Largest number of its tokens.
        """
        self.num_running += 1
        try:
            yield AnswerStages(self, deadline, max_tokens)
        finally:
            self.num_running -= 1

    def add_encode(self, seconds: float, num_running: int) -> None:
        """Adds an encode call that began when `num_running` answers were in progress."""
        self._encode.add(seconds, 1, self.clock())
        self._load.add(num_running, 1, self.clock())

    def add_first_token(self, seconds: float, num_running: int) -> None:
        """Adds the first token of a generation that began when `num_running` answers were in progress."""
        self._first_token.add(seconds, 1, self.clock())
        self._load.add(num_running, 1, self.clock())

    def add_decode(self, seconds: float, num_tokens: int, *, is_whole: bool) -> None:
        """Adds the decoding of the tokens after the first, of a whole answer or of one that its deadline has cut."""
        self._decode.add(seconds, num_tokens, self.clock())
        if is_whole:
            self._tokens.add(num_tokens, 1, self.clock())

    def encode_s(self) -> float:
        """Expected seconds of an encode call; 0 without evidence."""
        return self._expected(self._encode)

    def generate_s(self, max_tokens: int) -> float:
        """Expected seconds of a generation of up to `max_tokens` tokens; 0 without evidence."""
        num_tokens = min(self._tokens.mean(self.clock()) or 0.0, max_tokens - 1)
        return self._expected(self._first_token) + num_tokens * self._expected(self._decode)

    def check(self, time_left_s: float, max_tokens: int) -> None:
        """Refuses an answer, already counted as one in progress, that would not be done in `time_left_s` seconds.

        Raises:
            Overloaded: The answer would not be done. The error has the seconds after which there will be room.
        """
        if self.num_running <= 1:  # that answer shows whether the measurements still hold
            return
        expected_s = self.encode_s() + self.generate_s(max_tokens)
        if expected_s <= time_left_s:
            return
        count_refusal(Refusal.DEADLINE)
        retry_after_s = self._retry.next_s(expected_s - time_left_s, expected_s / self.num_running)
        raise Overloaded(
            f"answers take about {expected_s:.1f} s at present, longer than the deadline; try again later",
            retry_after_s=round(retry_after_s, 1),
        )

    def _expected(self, times: RecentMean) -> float:
        """Mean time with the margin, in proportion to the answers in progress now and when it was measured.

        By Little's law the time in a busy service is proportional to their number. Slow answers are thus not expected
        any more as soon as the load has gone.
        """
        mean_s, load = times.mean(self.clock()), self._load.mean(self.clock())
        if mean_s is None or not load:
            return 0.0
        return mean_s * _MARGIN * min(self.num_running / load, _MAX_GROWTH)


class AnswerStages:
    """Stages of one answer: their checks and measurements.

    A stage that the deadline cuts counts with the time that it had, else only quick answers would be measured.
    """

    def __init__(self, times: StageTimes, deadline: float, max_tokens: int) -> None:
        self._times = times
        self._deadline = deadline
        self._max_tokens = max_tokens
        self._first_token_at: float | None = None
        self._num_pieces = 0

    @property
    def has_text(self) -> bool:
        """Whether a piece of the text has been generated."""
        return self._num_pieces > 0

    def encode_by(self) -> float:
        """Event-loop time by which an encode call has to be done, so that the generation can be.

        Raises:
            Overloaded: The answer would not be done by its deadline.
            DeadlineExceeded: The deadline has passed.
        """
        left_s = time_left(self._deadline)
        self._times.check(left_s, self._max_tokens)
        if self._times.num_running <= 1:
            return self._deadline
        return self._deadline - min(self._times.generate_s(self._max_tokens), left_s * _MAX_RESERVED)

    @contextmanager
    def encode(self) -> Iterator[Callable[[], None]]:
        """Context of the look-up of visual tokens. Yields a function to call when an encode call has ended."""
        began, num_running = self._times.clock(), self._times.num_running

        def measure() -> None:
            self._times.add_encode(self._times.clock() - began, num_running)

        try:
            yield measure
        except BaseException as error:
            if self._is_late(error):
                measure()
            raise

    @contextmanager
    def generate(self) -> Iterator[Callable[[int], None]]:
        """Context of a generation. Yields a function to call with the number of tokens of the whole answer."""
        began, num_running = self._times.clock(), self._times.num_running

        def measure(num_tokens: int, *, is_whole: bool = True) -> None:
            ended_at = self._times.clock()
            first_at = self._first_token_at or ended_at
            self._times.add_first_token(first_at - began, num_running)
            self._times.add_decode(ended_at - first_at, max(num_tokens - 1, 0), is_whole=is_whole)

        try:
            yield measure
        except BaseException as error:
            if self._is_late(error):
                measure(self._num_pieces, is_whole=False)  # a piece is about a token
            raise

    def add_piece(self) -> None:
        """Records a piece of the generated text."""
        self._num_pieces += 1
        self._first_token_at = self._first_token_at or self._times.clock()

    def _is_late(self, error: BaseException) -> bool:
        # The caller of an answer may cancel it at its deadline before the call to the service has noticed it.
        return isinstance(error, DeadlineExceeded) or now() >= self._deadline
