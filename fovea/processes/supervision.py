"""Restarts of services that end by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from fovea.processes.stack import SERVICE_NAMES, Stack, StackError

__all__ = ["Supervisor"]

_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
# A service that ran for as long is started again as after its first end.
_STEADY_S: Final = 300.0


class Supervisor:
    """Starts services of a running stack again, after a wait that doubles while they keep ending.

    Args:
        stack: stack whose services all were ready once.
        tell: function that gets a line for the user about each end, start and readiness.
        clock: function that returns the time in seconds.
    """

    def __init__(
        self, stack: Stack, tell: Callable[[str], object], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stack, self._tell, self._clock = stack, tell, clock
        self._waits: dict[str, float] = {}
        self._started = dict.fromkeys(stack.processes, clock())
        self._due: dict[str, float] = {}
        self._is_recovering = False

    def step(self) -> None:
        """Notes services that have ended, and starts those whose wait is over. Call it about once a second."""
        for service, reason in self._stack.ended().items():
            del self._stack.processes[service]
            self._schedule(service, reason)
        for service in [name for name, due in self._due.items() if due <= self._clock()]:
            del self._due[service]
            try:
                self._stack.start(service)
            except (StackError, OSError) as error:
                self._schedule(service, f"could not be started: {error}")
            else:
                self._started[service] = self._clock()
        if self._is_recovering and not self._due and self._stack.is_ready():
            self._is_recovering = False
            self._tell("all services are ready again")

    def _schedule(self, service: str, reason: str) -> None:
        ran_s = self._clock() - self._started[service]
        last = self._waits.get(service)
        wait = _FIRST_WAIT_S if last is None or ran_s >= _STEADY_S else min(2 * last, _LONGEST_WAIT_S)
        self._waits[service], self._due[service] = wait, self._clock() + wait
        self._is_recovering = True
        self._tell(f"{SERVICE_NAMES[service]} {reason}; starting it again in {wait:.0f} s")
