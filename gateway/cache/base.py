"""Interface of the cache. Its methods do not raise: a failure is a miss, and is counted."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, Protocol

__all__ = ["MAX_VALUE_BYTES", "Cache", "Level"]

Level = Literal["answer", "visual_tokens"]

MAX_VALUE_BYTES: Final[Mapping[Level, int]] = MappingProxyType({"answer": 2**18, "visual_tokens": 16 * 2**20})
"""Bytes of the largest value of each level that is kept in Redis."""


class Cache(Protocol):
    """Storage of bytes by key on two levels, and short locks by key."""

    async def get(self, level: Level, key: str) -> bytes | None:
        """The value; None on a miss."""

    async def put(self, level: Level, key: str, value: bytes) -> None:
        """Stores a value for the cache's time to live, if there is room."""

    async def delete(self, level: Level, key: str) -> None:
        """Removes a value."""

    async def acquire(self, key: str) -> str | None:
        """A lock on the computation of `key`; None while another caller holds it, a few seconds at most."""

    async def release(self, key: str, lock: str) -> None:
        """Releases a lock of `acquire`."""

    async def close(self) -> None:
        """Frees connections."""
