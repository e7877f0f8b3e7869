"""Cores that all jobs on them share evenly, as threads under the scheduler and a quota do."""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import simpy

__all__ = ["Processor"]


class Processor:
    """Egalitarian processor sharing; no job is faster than one core.

    Kept in virtual time (Parekh & Gallager 1993), which advances by the work that each job receives. A job ends when
    virtual time has advanced by the job's work, whichever other jobs start and end meanwhile.

    Args:
        env: The simulation.
        cores: Number of cores, or a share of one.
    """

    def __init__(self, env: simpy.Environment, cores: float) -> None:
        self._env = env
        self._cores = cores
        self._jobs: list[tuple[float, int, simpy.Event]] = []
        self._numbers = itertools.count()
        self._virtual = self._updated_at = 0.0
        self._busy_s = 0.0
        self._timer_number = 0

    def run(self, seconds: float) -> simpy.Event:
        """The event of the end of a job of `seconds` of one core."""
        self._advance()
        done = self._env.event()
        heapq.heappush(self._jobs, (self._virtual + seconds, next(self._numbers), done))
        self._schedule()
        return done

    def busy_s(self) -> float:
        """Core seconds used up to now."""
        self._advance()
        return self._busy_s

    @property
    def cores(self) -> float:
        """Number of cores."""
        return self._cores

    def _rate(self) -> float:
        return min(1.0, self._cores / len(self._jobs)) if self._jobs else 0.0

    def _advance(self) -> None:
        step = self._rate() * (self._env.now - self._updated_at)
        self._virtual += step
        self._busy_s += step * len(self._jobs)
        self._updated_at = self._env.now

    def _schedule(self) -> None:
        self._timer_number += 1
        if self._jobs:
            wait = max(self._jobs[0][0] - self._virtual, 0.0) / self._rate()
            timer: Any = self._env.timeout(wait, value=self._timer_number)
            timer.callbacks.append(self._on_timer)

    def _on_timer(self, timer: Any) -> None:
        if timer.value != self._timer_number:  # another job has started meanwhile
            return
        self._advance()
        self._virtual = max(self._virtual, self._jobs[0][0])  # rounding must not leave the first unfinished
        while self._jobs and self._jobs[0][0] <= self._virtual:
            heapq.heappop(self._jobs)[2].succeed()
        self._schedule()
