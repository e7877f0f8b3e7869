"""Look-up in a cache, counted."""

from __future__ import annotations

from gateway.cache.base import Cache, Level
from gateway.metrics import CACHE_LOOKUPS

__all__ = ["lookup"]


async def lookup(cache: Cache, level: Level, key: str) -> bytes | None:
    """The entry of a key; None on a miss."""
    data = await cache.get(level, key)
    CACHE_LOOKUPS.labels(level, "miss" if data is None else "hit").inc()
    return data
