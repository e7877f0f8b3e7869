"""Deadlines of requests, as event-loop times in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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


@asynccontextmanager
async def until(deadline: float) -> AsyncIterator[None]:
    """Context whose body is cancelled at the deadline.

    Raises:
        DeadlineExceeded: The body was cancelled.
    """
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise _deadline_exceeded() from None


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("the answer was not done within timeout_s", param="timeout_s")
