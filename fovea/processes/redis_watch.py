"""Lines for the user about the Redis of a running stack, without which the services work on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

import httpx

from fovea.processes.readiness import readiness_checks
from fovea.processes.stack import Stack

__all__ = ["RedisWatch"]

_PERIOD_S: Final = 2.0


class RedisWatch(AbstractContextManager["RedisWatch"]):
    """Asks the gateway for its Redis, and tells once when it stops to answer and once when it answers again.

    Args:
        stack: stack whose services all were ready once.
        tell: function that gets a line for the user.
        clock: function that returns the time in seconds.
    """

    def __init__(
        self, stack: Stack, tell: Callable[[str], object], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._clock = tell, clock
        self._http = stack.client(1)
        self._due = clock()
        self._is_used = self._answers = True

    def step(self) -> None:
        """Asks, if two seconds have passed. Call it about once a second."""
        if not self._is_used or self._clock() < self._due:
            return
        self._due = self._clock() + _PERIOD_S
        try:
            checks = readiness_checks(self._http.get("/readyz"))
        except httpx.TransportError:
            return
        if not checks:
            return
        self._is_used = "redis" in checks
        state = checks.get("redis", "ok")
        if (state == "ok") != self._answers:
            self._answers = state == "ok"
            self._tell("Redis answers again" if self._answers else state)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
