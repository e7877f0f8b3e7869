"""What the pipeline asks of a cache.

A cache makes answers faster and never wrong or impossible: no method raises, a failure is a miss and is counted.
"""

from __future__ import annotations

from typing import Literal, Protocol

from prometheus_client import Counter

__all__ = ["LOOKUPS", "Cache", "Level"]

Level = Literal["answer", "visual_tokens"]

LOOKUPS = Counter("fovea_cache_lookups_total", "Look-ups in the gateway's caches.", ["level", "outcome"])


class Cache(Protocol):
    """Bytes by key on two levels, and a short lock by key."""

    async def get(self, level: Level, key: str) -> bytes | None:
        """The value, or None."""

    async def put(self, level: Level, key: str, value: bytes) -> None:
        """Stores a value for the cache's time to live, if it has room."""

    async def acquire(self, key: str) -> str | None:
        """A lock under which the caller may compute `key`; None while another one is held, a few seconds at most."""

    async def release(self, key: str, lock: str) -> None:
        """Gives back what `acquire` granted."""

    async def close(self) -> None:
        """Frees connections."""
