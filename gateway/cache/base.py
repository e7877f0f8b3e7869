"""Interface of the cache. Its methods do not raise: a failure is a miss, and is counted."""

from __future__ import annotations

from typing import Literal, Protocol

__all__ = ["Cache", "Level"]

Level = Literal["answer", "visual_tokens"]


class Cache(Protocol):
    """Storage of bytes by key on two levels, and short locks by key."""

    async def get(self, level: Level, key: str) -> bytes | None:
        """The value; None on a miss."""

    async def put(self, level: Level, key: str, value: bytes) -> None:
        """Stores a value for the cache's time to live, if there is room."""

    async def acquire(self, key: str) -> str | None:
        """A lock on the computation of `key`; None while another caller holds it, a few seconds at most."""

    async def release(self, key: str, lock: str) -> None:
        """Releases a lock of `acquire`."""

    async def close(self) -> None:
        """Frees connections."""
