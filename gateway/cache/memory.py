"""Cache in this process: LRU, bounded in bytes, with expiring entries."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cachetools import TTLCache

from gateway.cache.base import Level

__all__ = ["MemoryCache"]

_ENTRY_OVERHEAD_BYTES: Final = 200  # key, dictionary slot and list links


class MemoryCache:
    """Cache in this process.

    Args:
        answer_bytes: Size of the answer level in bytes; 0 turns it off.
        visual_token_bytes: Size of the visual-token level in bytes; 0 turns it off.
        ttl_s: Time to live of an entry in seconds.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        *,
        answer_bytes: int,
        visual_token_bytes: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def level(size: int) -> TTLCache[str, bytes]:
            return TTLCache(size, ttl_s, timer=clock, getsizeof=lambda value: len(value) + _ENTRY_OVERHEAD_BYTES)

        self._levels: dict[Level, TTLCache[str, bytes]] = {
            "answer": level(answer_bytes),
            "visual_tokens": level(visual_token_bytes),
        }

    async def get(self, level: Level, key: str) -> bytes | None:
        """The value; None on a miss."""
        return self._levels[level].get(key)

    async def put(self, level: Level, key: str, value: bytes) -> None:
        """Stores a value, unless it is larger than the whole level."""
        entries = self._levels[level]
        if len(value) + _ENTRY_OVERHEAD_BYTES <= entries.maxsize:
            entries[key] = value

    async def delete(self, level: Level, key: str) -> None:
        """Removes a value."""
        self._levels[level].pop(key, None)

    async def acquire(self, key: str) -> str | None:
        """Always granted: within one process `gateway.core.single_flight` shares the computation."""
        return key

    async def release(self, key: str, lock: str) -> None:
        """No effect."""

    async def close(self) -> None:
        """Removes all entries."""
        for entries in self._levels.values():
            entries.clear()
