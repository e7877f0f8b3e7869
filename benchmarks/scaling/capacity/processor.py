"""Cores that all who run on them share evenly, as threads under the scheduler and a quota do."""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import simpy

__all__ = ["Processor"]


class Processor:
    """Egalitarian processor sharing; nobody is faster than one core.

    Kept in virtual time (Parekh & Gallager 1993): it advances by what each job receives, so that a job ends when it has
    advanced by the job's work, whoever comes and goes meanwhile.

    Args:
        env: The simulation.
        cores: How many, or which part of one.
    """

    def __init__(self, env: simpy.Environment, cores: float) -> None:
        self._env = env
        self._cores = cores
        self._jobs: list[tuple[float, int, simpy.Event]] = []
        self._numbers = itertools.count()
        self._virtual = self._updated_at = 0.0
        self._busy_s = 0.0
        self._wake_number = 0

    def run(self, seconds: float) -> simpy.Event:
        """An event of the moment at which so much work of one core is done."""
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
        """How many."""
        return self._cores

    def _rate(self) -> float:
        return min(1.0, self._cores / len(self._jobs)) if self._jobs else 0.0

    def _advance(self) -> None:
        step = self._rate() * (self._env.now - self._updated_at)
        self._virtual += step
        self._busy_s += step * len(self._jobs)
        self._updated_at = self._env.now

    def _schedule(self) -> None:
        self._wake_number += 1
        if self._jobs:
            wait = max(self._jobs[0][0] - self._virtual, 0.0) / self._rate()
            wake: Any = self._env.timeout(wait, value=self._wake_number)
            wake.callbacks.append(self._wake)

    def _wake(self, wake: Any) -> None:
        if wake.value != self._wake_number:  # somebody came meanwhile
            return
        self._advance()
        self._virtual = max(self._virtual, self._jobs[0][0])  # rounding must not leave the first unfinished
        while self._jobs and self._jobs[0][0] <= self._virtual:
            heapq.heappop(self._jobs)[2].succeed()
        self._schedule()
