"""Counts of requests and pixels in the last minute, by client: sliding windows of the package `limits`.

With Redis all gateways count together. While Redis is down, each counts by itself. A window takes the count of the
minute before as spread evenly, so that a burst at its end allows up to twice the limit in some 60 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

if TYPE_CHECKING:  # imports the package redis, which only --redis-url needs
    from gateway.cache.redis_client import RedisClient

__all__ = ["MinuteWindows", "seconds_until_room"]

_WINDOW_S: Final = 60
_MAX_COUNTS: Final = 4096
"""Most counts in this process: two for each client and limit. Beyond it the oldest count is forgotten, in favour of its
client."""
_MARGIN_S: Final = 0.01
"""Added to the time of a retry, since the window has room only after that time."""


class MinuteWindows:
    """Counts by client.

    Args:
        redis: Client of a Redis that all gateways share; None to count in this process.
    """

    def __init__(self, redis: RedisClient | None) -> None:
        self._redis = redis
        self._here = _Windows(_BoundedMemory())
        self._shared = _Windows(_redis_storage(redis)) if redis is not None else None

    async def spend(self, client_id: str, kind: str, cost: int, *, limit: int) -> float:
        """Counts `cost`, unless it would exceed the limit. A refused cost is not counted.

        Args:
            client_id: Id of the client.
            kind: Name of what is counted.
            cost: Requests or pixels, at most `limit`.
            limit: Most of them in a minute.

        Returns:
            0 if the cost was counted, else the seconds after which the window has room for it, if the client asks for
            nothing else meanwhile.
        """
        item, identifiers = RateLimitItemPerMinute(limit), (client_id, kind)
        if self._redis is not None and self._shared is not None:
            shared = self._shared
            wait_s: float | None = await self._redis.attempt(lambda: shared.spend(item, identifiers, cost), None)
            if wait_s is not None:
                return wait_s
        return await self._here.spend(item, identifiers, cost)


class _Windows:
    """Sliding windows in one storage."""

    def __init__(self, storage: MemoryStorage | RedisStorage) -> None:
        self._storage = storage
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    async def spend(self, item: RateLimitItemPerMinute, identifiers: tuple[str, ...], cost: int) -> float:
        """See `MinuteWindows.spend`."""
        if await self._limiter.hit(item, *identifiers, cost=cost):
            return 0.0
        window = await self._storage.get_sliding_window(item.key_for(*identifiers), item.get_expiry())
        return max(_MARGIN_S, seconds_until_room(*window, limit=item.amount, cost=cost))


class _BoundedMemory(MemoryStorage):
    """Counts in memory, of a limited number of clients."""

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        if key not in self.storage and len(self.storage) >= _MAX_COUNTS:
            await self.clear(next(iter(self.storage)))
        return await super().incr(key, expiry, amount)


def _redis_storage(redis: RedisClient) -> RedisStorage:
    # The URL is not used: the storage gets the connections.
    options = cast(Any, {"connection_pool": redis.pool})
    return RedisStorage("async+redis://", implementation="redispy", key_prefix="fovea:limits", **options)


def seconds_until_room(
    previous: int, previous_s: float, current: int, current_s: float, *, limit: int, cost: int
) -> float:
    """Seconds after which a sliding window has room for a cost.

    The count of the window is that of the current minute, and of the previous minute the part that is still within the
    last 60 s.

    Args:
        previous: Count of the previous minute.
        previous_s: Seconds until it no longer counts.
        current: Count of the current minute.
        current_s: Seconds until it no longer counts, 60 more than the current minute still has.
        limit: Most in a minute.
        cost: Cost, at most `limit`.
    """
    room = limit - cost - current
    if room >= 0 and previous:
        return max(0.0, previous_s - _WINDOW_S * (room + 1) / previous) + _MARGIN_S
    if not current:
        return 0.0
    current_minute_s = max(0.0, current_s - _WINDOW_S)
    return current_minute_s + max(0.0, _WINDOW_S - _WINDOW_S * (limit - cost + 1) / current) + _MARGIN_S
