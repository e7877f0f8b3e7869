"""The embedded cache: least recently used out first, bounded in bytes, entries expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cachetools import TTLCache

from gateway.cache.base import Level

__all__ = ["MemoryCache"]

_ENTRY_OVERHEAD_BYTES: Final = 200  # key, dictionary slot and links


class MemoryCache:
    """A cache inside this process.

    Args:
        answer_bytes: Room for answers; 0 for none.
        visual_token_bytes: Room for visual tokens; 0 for none.
        ttl_s: Seconds until an entry is forgotten.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        *,
        answer_bytes: int,
        visual_token_bytes: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def room(size: int) -> TTLCache[str, bytes]:
            return TTLCache(size, ttl_s, timer=clock, getsizeof=lambda value: len(value) + _ENTRY_OVERHEAD_BYTES)

        self._levels: dict[Level, TTLCache[str, bytes]] = {
            "answer": room(answer_bytes),
            "visual_tokens": room(visual_token_bytes),
        }

    async def get(self, level: Level, key: str) -> bytes | None:
        """The value, or None."""
        return self._levels[level].get(key)

    async def put(self, level: Level, key: str, value: bytes) -> None:
        """Stores a value; one that is larger than the whole level is not stored."""
        entries = self._levels[level]
        if len(value) + _ENTRY_OVERHEAD_BYTES <= entries.maxsize:
            entries[key] = value

    async def acquire(self, key: str) -> str | None:
        """Always granted: within one process `gateway.single_flight` keeps identical requests together."""
        return key

    async def release(self, key: str, lock: str) -> None:
        """Nothing to give back."""

    async def close(self) -> None:
        """Forgets everything."""
        for entries in self._levels.values():
            entries.clear()
