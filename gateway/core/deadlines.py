"""Deadlines of requests, as event-loop times in seconds."""

from __future__ import annotations

import asyncio
from types import TracebackType

from fovea.errors import DeadlineExceeded

__all__ = ["now", "time_left", "until"]


def now() -> float:
    """Event-loop time in seconds."""
    return asyncio.get_running_loop().time()


def time_left(deadline: float) -> float:
    """Seconds until a deadline.

    Raises:
        DeadlineExceeded: The deadline has passed.
    """
    left = deadline - now()
    if left <= 0:
        raise _deadline_exceeded()
    return left


class until:  # noqa: N801  (a function to its callers, as `asyncio.timeout_at`)
    """Context whose body is cancelled at the deadline. Leaving it raises DeadlineExceeded if the body was cancelled.

    Args:
        deadline: Event-loop time in seconds.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        # Not before the body waits for the first time. That of a cached answer does not, and needs no timer.
        self._start = asyncio.get_running_loop().call_soon(self._timeout.reschedule, self._deadline)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._start.cancel()
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise _deadline_exceeded() from None
        if isinstance(error, TimeoutError):
            raise _deadline_exceeded() from None


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("the answer was not done within timeout_s", param="timeout_s")
