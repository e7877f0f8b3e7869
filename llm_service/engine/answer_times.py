"""Measured times of answers: seconds per prompt token, seconds per generated token, and tokens of an answer.

Recent answers were decoded in batches of the size that the service runs at present. Their time per token is thus the
one of that batch size.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fovea.service_rate import RecentMean
from llm_service.engine.sequence import Sequence

__all__ = ["AnswerTimes"]


class AnswerTimes:
    """Times of recent answers. Thread-safe.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._prefill_s = RecentMean()  # per prompt token
        self._decode_s = RecentMean()  # per generated token but the first, which the prefill gives
        self._num_tokens = RecentMean()  # per answer

    def observe(self, sequence: Sequence) -> None:
        """Adds the times of a sequence that has ended; one without a complete answer is ignored."""
        timing = sequence.timing
        if timing is None:
            return
        with self._lock:
            now, num_tokens = self._clock(), len(sequence.token_ids)
            prefill_ms = timing.time_to_first_token_ms - timing.queue_ms
            self._prefill_s.add(prefill_ms / 1e3, sequence.request.prompt.num_tokens, now)
            decode_ms = timing.generate_ms - timing.time_to_first_token_ms
            self._decode_s.add(decode_ms / 1e3, num_tokens - 1, now)
            self._num_tokens.add(num_tokens, 1, now)

    def expected_s(self, sequence: Sequence) -> float:
        """Expected seconds from admission to the last token; 0 without evidence."""
        with self._lock:
            now = self._clock()
            num_tokens = min(self._num_tokens.mean(now) or 0.0, sequence.max_tokens)
            prefill_s = sequence.request.prompt.num_tokens * (self._prefill_s.mean(now) or 0.0)
            return prefill_s + max(num_tokens - 1, 0.0) * (self._decode_s.mean(now) or 0.0)
