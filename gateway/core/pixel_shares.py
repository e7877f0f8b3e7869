"""Pixels of the images that are on their way through the encoder service, shared fairly among clients."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.access.fair_shares import FairShares
from gateway.core.deadlines import until

__all__ = ["PixelShares"]


@dataclass(eq=False)
class _Waiting:
    """An encode call that waits for its pixels."""

    client: str
    num_pixels: int
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class PixelShares:
    """Limit on the pixels in encode calls, with a fair share for each client.

    A call waits until its pixels fit. Calls of a client that is below its share pass those of clients above theirs, so
    one client's large images delay another client by those in progress only. A call with more than the limit waits for
    a time at which nothing else is in progress.

    Args:
        limit: Most pixels in progress.
        clock: Monotonic clock in seconds.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._shares = FairShares(limit, clock=clock)
        self._waiting: deque[_Waiting] = deque()

    @property
    def num_waiting(self) -> int:
        """Number of calls that wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def hold(self, client: str, num_pixels: int, *, deadline: float) -> AsyncIterator[None]:
        """Context in which pixels are in progress.

        Args:
            client: Id of the client.
            num_pixels: Pixels of the call, by the headers of its images.
            deadline: Event-loop time in seconds until which the call waits.

        Raises:
            DeadlineExceeded: The pixels did not fit by the deadline.
        """
        waiting = _Waiting(client, num_pixels)
        self._waiting.append(waiting)
        try:
            self._grant()
            async with until(deadline):
                await waiting.granted.wait()
            yield
        finally:
            if waiting.granted.is_set():
                self._shares.give_back(client, num_pixels)
            else:
                self._waiting.remove(waiting)
            self._grant()

    def _grant(self) -> None:
        """Grants what fits, in the order of arrival.

        A call of a client that has nothing in progress is passed by no other, so large calls do not wait for ever.
        """
        for waiting in tuple(self._waiting):
            is_alone = not self._shares.num_held
            if self._shares.ask(waiting.client, waiting.num_pixels) == "granted" or is_alone:
                self._shares.take(waiting.client, waiting.num_pixels)
                self._waiting.remove(waiting)
                waiting.granted.set()
            elif not self._shares.held_by(waiting.client):
                return
