"""Memory that requests under way hold, bounded for a service as a whole."""

from __future__ import annotations

from typing import Any, Final

from fovea.errors import Overloaded

__all__ = ["BytesInFlight"]

_RETRY_AFTER_S: Final = 1.0


class BytesInFlight:
    """A count that is looked at before memory is taken. For one event loop.

    Args:
        limit: Most bytes of all calls together. A call that is alone passes whatever its size, which other limits
            bound: otherwise it would be refused for ever.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Any, int] = {}  # by the call's context

    @property
    def held(self) -> int:
        """Bytes of all calls."""
        return sum(self._held.values())

    def require_room(self) -> None:
        """Looks before a message is received, whose size nobody knows yet.

        Raises:
            Overloaded: The limit is reached; says when to try again.
        """
        if self.held >= self._limit:
            raise self._overloaded()

    def hold(self, count: int, context: Any) -> None:
        """Counts `count` bytes more until the call of a servicer's context has ended, however it ends.

        Raises:
            Overloaded: All calls together would hold more than the limit.
        """
        own, held = self._held.get(context, 0), self.held
        if held > own and held + count > self._limit:
            raise self._overloaded()
        if context not in self._held:
            context.add_done_callback(lambda ended: self._held.pop(ended, None))
        self._held[context] = own + count

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"the calls under way hold {self.held >> 20} MiB of the {self._limit >> 20} MiB that this service has for"
            " them; try again shortly",
            retry_after_s=_RETRY_AFTER_S,
        )
