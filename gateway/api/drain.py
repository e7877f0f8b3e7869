"""The end of a drain: what is still in progress gets an answer of its own, not a closed connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fovea.errors import Unavailable

__all__ = ["Drain"]


class Drain:
    """Ends requests in progress once the time that they get when the server stops is over."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self._over = False

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Runs until the drain is over; entered and left by one task.

        Raises:
            Unavailable: The drain was over before the body was done, which has been cancelled.
        """
        try:
            async with asyncio.timeout(0 if self._over else None) as scope:
                self._scopes.add(scope)
                try:
                    yield
                finally:
                    self._scopes.discard(scope)
        except TimeoutError:
            if not scope.expired():
                raise
            raise Unavailable("the server is stopping; try again shortly", retry_after_s=1.0) from None

    def end(self) -> None:
        """The drain is over: ends every scope, and those entered from now on."""
        self._over = True
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)
