"""End of a drain: requests still in progress get an error response instead of a closed connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fovea.errors import Unavailable

__all__ = ["Drain"]


class Drain:
    """Switch that ends the requests in progress when the grace period of a stopping server is over."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self._ended = False

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Context that is cancelled at the end of the drain; entered and left by the same task.

        Raises:
            Unavailable: The drain ended first.
        """
        try:
            async with asyncio.timeout(0 if self._ended else None) as scope:
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
        """Cancels all scopes, and those entered later."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)
