"""Links: messages one after the other, each followed by a propagation delay."""

from __future__ import annotations

import simpy

__all__ = ["Link"]


class Link:
    """A queue in front of a line of some bandwidth.

    Args:
        env: The simulation.
        bits_per_second: Bandwidth of the line.
        delay_s: Propagation delay from one end to the other.
    """

    def __init__(self, env: simpy.Environment, bits_per_second: float, delay_s: float = 0.0) -> None:
        self._env = env
        self._bytes_per_second = bits_per_second / 8
        self._delay_s = delay_s
        self._free_at = 0.0
        self._busy_s = 0.0

    def send(self, size: float, *, occupied_s: float = 0.0) -> simpy.Timeout:
        """The event of the arrival of `size` bytes, which occupy the line for another `occupied_s` seconds."""
        duration = size / self._bytes_per_second + occupied_s
        start = max(self._env.now, self._free_at)
        self._free_at = start + duration
        self._busy_s += duration
        return self._env.timeout(self._free_at + self._delay_s - self._env.now)

    def busy_s(self) -> float:
        """Seconds that the line has been in use, up to now."""
        return self._busy_s - max(self._free_at - self._env.now, 0.0)

    @property
    def waiting_s(self) -> float:
        """Queue time of a message that is sent now."""
        return max(self._free_at - self._env.now, 0.0)
