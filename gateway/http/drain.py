"""End of a drain: requests still in progress get an error response instead of a closed connection."""

from __future__ import annotations

import asyncio
from types import TracebackType

from fovea.errors import Unavailable

__all__ = ["Drain"]


class Drain:
    """Switch that ends the requests in progress when the grace period of a stopping server is over."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self._ended = False

    def scope(self) -> _Scope:
        """Context that is cancelled at the end of the drain; entered and left by the same task.

        Raises:
            Unavailable: The drain ended first. Raised as the context is left.
        """
        return _Scope(self._scopes, asyncio.timeout(0 if self._ended else None))

    def end(self) -> None:
        """Cancels all scopes, and those entered later."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)


class _Scope:
    """A request in progress.

    Args:
        scopes: All that are in progress.
        timeout: Timeout that the end of the drain reschedules.
    """

    def __init__(self, scopes: set[asyncio.Timeout], timeout: asyncio.Timeout) -> None:
        self._scopes = scopes
        self._timeout = timeout

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._scopes.add(self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scopes.discard(self._timeout)
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise Unavailable("the server is stopping; try again shortly", retry_after_s=1.0) from None
