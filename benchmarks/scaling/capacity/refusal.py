"""Refusal of a request by a full queue."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):
    """A queue is full, and refuses the request at once; `args[0]` is its name."""

    @property
    def queue(self) -> str:
        """Name of the queue."""
        return str(self.args[0])
