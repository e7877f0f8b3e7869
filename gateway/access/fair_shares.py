"""Fair shares of a limited resource: no client takes what others need, and one alone is not held back by much."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["FairShares", "Verdict"]

Verdict = Literal["granted", "full", "above share"]
"""Whether a client gets an amount: `full` if nobody would, `above share` if only clients below their share would."""

_RESERVE: Final = 8
"""One unit in this many is for clients below their share."""
_ACTIVE_S: Final = 60.0
"""Seconds after its last request in which a client counts for the shares of the others."""
_MAX_IDLE_CLIENTS: Final = 4096
"""Most clients that are remembered although they hold nothing."""


@dataclass
class _Usage:
    """Usage of a client.

    Attributes:
        held: Units that it holds.
        seen_at: Time of its last request in seconds.
    """

    held: int
    seen_at: float


class FairShares:
    """Units of a resource, shared among clients.

    An eighth of the limit is a reserve. The share of a client is the rest divided by the number of clients that were
    active in the last minute. Up to its share a client gets all that is free, the reserve included. Beyond it a client
    gets what is free except the reserve. One client alone therefore gets seven eighths, and others get in at once
    beside it. What it gives back then goes to clients below their share, until all have theirs.

    The cost of a request is constant, and the memory is that of the clients in the last minute, up to a limit.

    Args:
        limit: Units in all.
        clock: Monotonic clock in seconds.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._unreserved = limit - limit // _RESERVE
        self._clock = clock
        self._held = 0
        self._clients: OrderedDict[str, _Usage] = OrderedDict()  # by the time of the last request

    @property
    def num_held(self) -> int:
        """Units that all clients hold."""
        return self._held

    @property
    def num_clients(self) -> int:
        """Number of clients that are remembered."""
        return len(self._clients)

    def held_by(self, client_id: str) -> int:
        """Units that a client holds."""
        usage = self._clients.get(client_id)
        return usage.held if usage is not None else 0

    def ask(self, client_id: str, amount: int = 1) -> Verdict:
        """Whether a client would get `amount` units now. It counts as active from now on."""
        usage = self._seen(client_id)
        after = self._held + amount
        if after > self._limit:
            return "full"
        share = max(1, self._unreserved // len(self._clients))
        if usage.held + amount > share and after > self._unreserved:
            return "above share"
        return "granted"

    def take(self, client_id: str, amount: int = 1) -> None:
        """Gives `amount` units to a client, which `ask` granted."""
        self._clients[client_id].held += amount
        self._held += amount

    def give_back(self, client_id: str, amount: int = 1) -> None:
        """Takes `amount` units back that a client holds."""
        if amount:
            self._clients[client_id].held -= amount
            self._held -= amount

    def _seen(self, client_id: str) -> _Usage:
        """Usage of a client that sends a request now."""
        now = self._clock()
        usage = self._clients.get(client_id)
        if usage is None:
            usage = self._clients[client_id] = _Usage(0, now)
        usage.seen_at = now
        self._clients.move_to_end(client_id)
        for _ in range(2):  # more than can be added, so that the memory is bounded
            oldest_id, oldest = next(iter(self._clients.items()))
            if oldest.seen_at > now - _ACTIVE_S and len(self._clients) <= _MAX_IDLE_CLIENTS:
                break
            if oldest.held:
                oldest.seen_at = now
                self._clients.move_to_end(oldest_id)
            elif oldest is not usage:
                del self._clients[oldest_id]
        return usage
