"""Limit on the memory that all requests of a service hold together."""

from __future__ import annotations

from typing import Any, Final

from fovea.errors import Overloaded
from fovea.telemetry import Refusal, count_refusal

__all__ = ["BytesInFlight"]

_RETRY_AFTER_S: Final = 1.0


class BytesInFlight:
    """Count of the bytes that calls hold, checked before memory is allocated. For use in one event loop.

    Args:
        limit: most bytes of all calls together. A call that is alone is accepted whatever its size, which other limits
            bound; otherwise it could never be accepted.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Any, int] = {}  # bytes by the call's context

    @property
    def held(self) -> int:
        """Bytes that all calls hold."""
        return sum(self._held.values())

    def require_room(self) -> None:
        """Checks the limit before a message of unknown size is received.

        Raises:
            Overloaded: the limit is reached; the error has a time to retry after.
        """
        if self.held >= self._limit:
            raise self._overloaded()

    def hold(self, count: int, context: Any) -> None:
        """Counts `count` more bytes until the call ends.

        Args:
            count: bytes that the call takes in addition.
            context: servicer context of the call.

        Raises:
            Overloaded: all calls together would hold more than the limit.
        """
        own, held = self._held.get(context, 0), self.held
        if held > own and held + count > self._limit:
            raise self._overloaded()
        if context not in self._held:
            context.add_done_callback(lambda ended: self._held.pop(ended, None))
        self._held[context] = own + count

    def _overloaded(self) -> Overloaded:
        count_refusal(Refusal.BYTES_IN_FLIGHT)
        return Overloaded(
            f"the calls in progress hold {self.held >> 20} MiB of the {self._limit >> 20} MiB that this service has for"
            " them; try again shortly",
            retry_after_s=_RETRY_AFTER_S,
        )
