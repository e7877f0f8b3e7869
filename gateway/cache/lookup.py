"""Look-up in a cache, counted."""

from __future__ import annotations

from fovea.telemetry import CACHE_LOOKUPS
from gateway.cache.base import Cache, Level

__all__ = ["lookup"]


async def lookup(cache: Cache, level: Level, key: str) -> bytes | None:
    """The entry of a key; None on a miss."""
    data = await cache.get(level, key)
    CACHE_LOOKUPS.labels(level, "miss" if data is None else "hit").inc()
    return data
