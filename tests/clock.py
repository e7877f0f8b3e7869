"""Clock of tests, which moves only when a test moves it."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """Function to the time in seconds that stands still until a test sets `now`.

    Args:
        now: Time at first.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
