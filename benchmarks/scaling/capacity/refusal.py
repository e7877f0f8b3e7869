"""A request that found a bounded queue full."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):
    """The caller is told at once to come back later; `args[0]` is the place that was full."""

    @property
    def place(self) -> str:
        """For the count."""
        return str(self.args[0])
