"""The device of a model: one forward at a time, on an accelerator of its own or on the pod's cores."""

from __future__ import annotations

import simpy

from benchmarks.scaling.capacity.processor import Processor

__all__ = ["Device"]


class Device:
    """The device of a model; `shared` are the cores that it runs on, None for an accelerator."""

    def __init__(self, env: simpy.Environment, shared: Processor | None) -> None:
        self._env = env
        self._shared = shared
        self._busy_s = 0.0
        self._until = 0.0

    def run(self, seconds: float) -> simpy.Event:
        """The event of the end of a forward."""
        if self._shared is not None:
            return self._shared.run(seconds)
        self._busy_s += seconds
        self._until = self._env.now + seconds
        return self._env.timeout(seconds)

    def busy_s(self) -> float:
        """Seconds in use up to now; on shared cores those of everything that runs there."""
        if self._shared is not None:
            return self._shared.busy_s() / self._shared.cores
        return self._busy_s - max(self._until - self._env.now, 0.0)
