"""Look-up in a cache, counted."""

from __future__ import annotations

from functools import cache
from typing import Final

from fovea.telemetry import CACHE_LOOKUPS
from gateway.cache.base import Cache, Level

__all__ = ["lookup"]

_lookups: Final = cache(CACHE_LOOKUPS.labels)  # the series of a label are looked up once


async def lookup(cache: Cache, level: Level, key: str) -> bytes | None:
    """The entry of a key; None on a miss."""
    data = await cache.get(level, key)
    _lookups(level, "miss" if data is None else "hit").inc()
    return data
