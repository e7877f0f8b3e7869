"""Measured rates: how long a queue takes to move, and when refused clients may come back.

Nothing here is estimated without evidence, and evidence is forgotten in about a minute. A slow request, a cold start or
a stall thus changes the estimates for that long at most.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Final

__all__ = ["RecentMean", "RetryTimes", "ServiceRate"]

MEMORY_S: Final = 30.0
"""Time in seconds in which the weight of a measurement falls to 1/e. It spans several answers of a language model."""
_MEMORY_SAMPLES: Final = 8
"""Departures in which it falls to 1/e at the earliest, so that a slow queue is known as well."""
MIN_SAMPLES: Final = 2.5
"""Weight of the measurements below which there is no estimate: three of them, which have lost some of their weight."""
MIN_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0
_JITTER: Final = 0.1
"""Largest share that is added to a retry time. Nothing is subtracted, because the time has to hold."""

Clock = Callable[[], float]


class RecentMean:
    """Mean per unit of the measurements of the last `MEMORY_S` seconds or so: a ratio of two sums that decay.

    Attributes:
        samples: Number of measurements, decayed.
        units: Sum of their units, decayed.
        total: Sum of their values, decayed.
    """

    def __init__(self) -> None:
        self.samples = self.units = self.total = 0.0
        self._at = -math.inf

    def add(self, value: float, units: float, now: float, *, most_s: float = math.inf) -> None:
        """Adds a measurement of `value` for `units` units at time `now`, in seconds; see `decay` for `most_s`."""
        self.decay(now, most_s=most_s)
        self.samples += 1
        self.units += units
        self.total += value

    def decay(self, now: float, *, most_s: float = math.inf) -> None:
        """Reduces the weight of the measurements by the time that has passed, or by `most_s` seconds if it is more."""
        kept = math.exp(-min(max(now - self._at, 0.0), most_s) / MEMORY_S)
        self.samples, self.units, self.total = self.samples * kept, self.units * kept, self.total * kept
        self._at = max(now, self._at)

    def mean(self, now: float) -> float | None:
        """Value per unit; None with less than `MIN_SAMPLES` recent measurements."""
        samples = self.samples * math.exp(-max(now - self._at, 0.0) / MEMORY_S)
        return self.total / self.units if samples >= MIN_SAMPLES and self.units else None


class ServiceRate:
    """Rate at which requests leave a queue for service while the queue is blocked, which means: waits for capacity.

    Only that time counts. The intervals between requests that never wait say nothing about the capacity.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._intervals = RecentMean()  # seconds per request
        self._blocked_since: float | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether requests wait for capacity."""
        return self._blocked_since is not None

    def update(self, num_started: int, *, is_blocked: bool) -> None:
        """Records the state of the queue after requests have left it, or after it has become blocked or empty.

        Args:
            num_started: Number of requests that have left the queue for service.
            is_blocked: Whether others still wait for capacity.
        """
        now = self._clock()
        if num_started and self._blocked_since is not None:
            # A stall counts as no more than the memory, so that the starts after it soon outweigh it.
            interval_s = min(now - self._blocked_since, MEMORY_S)
            self._intervals.add(interval_s, num_started, now, most_s=MEMORY_S / _MEMORY_SAMPLES)
        if not is_blocked:
            self._blocked_since = None
        elif num_started or self._blocked_since is None:
            self._intervals.decay(now)
            self._blocked_since = now

    @property
    def interval_s(self) -> float | None:
        """Expected seconds per start; None without evidence. It grows while the queue does not move."""
        now = self._clock()
        # While the queue is blocked, evidence is not forgotten: a queue that does not move is evidence itself.
        mean_s = self._intervals.mean(now if self._blocked_since is None else self._blocked_since)
        if mean_s is None or self._blocked_since is None:
            return mean_s
        # As if a group of starts of the usual size came now.
        group = self._intervals.units / self._intervals.samples
        stalled_s = now - self._blocked_since
        return max(mean_s, (self._intervals.total + stalled_s) / (self._intervals.units + group))

    @property
    def least_interval_s(self) -> float | None:
        """Seconds per start if the measurements were pessimistic by one standard deviation of a Poisson process."""
        interval_s = self.interval_s
        return None if interval_s is None else interval_s / (1 + 1 / math.sqrt(self._intervals.samples))


class RetryTimes:
    """Times after which refused clients may come back, one for each start, so that not all come at once.

    Args:
        clock: Monotonic clock in seconds.
        jitter: Function that returns a random number in an interval, such as `random.uniform`.
    """

    def __init__(self, clock: Clock = time.monotonic, jitter: Callable[[float, float], float] = random.uniform) -> None:
        self._clock = clock
        self._jitter = jitter
        self._last = -math.inf

    def next_s(self, room_s: float, interval_s: float | None) -> float:
        """Seconds after which the next refused client may come back, from `MIN_RETRY_S` to `MAX_RETRY_S`.

        Args:
            room_s: Seconds until there is room for a request.
            interval_s: Seconds per start; None for unknown.
        """
        now = self._clock()
        self._last = min(max(now + room_s, self._last + (interval_s or 0.0)), now + MAX_RETRY_S)
        later_s = max(self._last - now - MIN_RETRY_S, 0.0)
        return min(MIN_RETRY_S + later_s * self._jitter(1.0, 1.0 + _JITTER), MAX_RETRY_S)
