"""Cancellation of work when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from fovea.errors import Cancelled

__all__ = ["until_disconnect"]

T = TypeVar("T")


async def _end_at_disconnect(receive: Receive, scope: asyncio.Timeout) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.reschedule(asyncio.get_running_loop().time())


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Result of `work`, which is cancelled if the client disconnects first. The body must have been read.

    Raises:
        Cancelled: The client disconnected.
    """
    loop, scope = asyncio.get_running_loop(), asyncio.timeout(None)
    watches: list[asyncio.Task[None]] = []
    # Not started before the work waits for the first time. A cached answer does not, and needs no task.
    start = loop.call_soon(lambda: watches.append(loop.create_task(_end_at_disconnect(receive, scope))))
    try:
        async with scope:
            return await work
    except TimeoutError:
        if not scope.expired():
            raise
        raise Cancelled("the client closed the connection before the answer was done") from None
    finally:
        start.cancel()
        for watch in watches:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
