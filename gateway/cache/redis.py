"""The cache in Redis, shared by all gateways. Redis down, slow or full means slower answers, never an error.

Every command has a short deadline. After a failed one Redis is left alone for a moment, so that a dead server costs
one deadline now and then and not one per request. Values carry a checksum: what does not match is a miss.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from fovea import telemetry
from gateway.cache.base import Level

__all__ = ["RedisCache"]

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 0.25
_PAUSE_S: Final = 2.0
_MAX_CONNECTIONS: Final = 32
_LOCK_S: Final = 10
_CHECKSUM_BYTES: Final = 4

# Delete only what is ours: a lock that expired may belong to somebody else by now.
_RELEASE: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class RedisCache:
    """A cache in Redis.

    Args:
        url: redis:// or rediss:// URL, password included.
        ttl_s: Seconds until an entry is forgotten.
        timeout_s: Deadline of one command.
        pause_s: How long Redis is left alone after a failure.
        clock: Seconds that never go back.

    Raises:
        ValueError: `url` is not a Redis URL.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl_s: float,
        timeout_s: float = _TIMEOUT_S,
        pause_s: float = _PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_MAX_CONNECTIONS,
                timeout=timeout_s,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:  # its text may quote the password
            raise ValueError("redis_url is not of the form redis://[:password@]host:port/database") from None
        self._redis = Redis.from_pool(pool)
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._clock = clock
        self._paused_until = -float("inf")

    async def _try(self, command: Callable[[], Awaitable[Any]], otherwise: Any) -> Any:
        """The command's result; `otherwise` if Redis fails now or failed a moment ago."""
        if self._clock() < self._paused_until:
            return otherwise
        try:
            async with asyncio.timeout(self._timeout_s):
                return await command()
        except ResponseError as error:  # it answers, but refuses: full, read-only, loading
            telemetry.FAILURES.labels("redis").inc()
            log.warning("redis refused a command: %s", type(error).__name__)
        except (RedisError, OSError, TimeoutError) as error:
            telemetry.FAILURES.labels("redis").inc()
            log.warning("redis failed (%s); not used for %g s", type(error).__name__, self._pause_s)
            self._paused_until = self._clock() + self._pause_s
        return otherwise

    async def get(self, level: Level, key: str) -> bytes | None:
        """The value, or None; an entry whose checksum is wrong counts as none."""
        entry = await self._try(lambda: self._redis.get(key), None)
        if entry is None:
            return None
        checksum, value = bytes(entry[:_CHECKSUM_BYTES]), bytes(entry[_CHECKSUM_BYTES:])
        if zlib.crc32(value).to_bytes(_CHECKSUM_BYTES, "big") != checksum:
            telemetry.FAILURES.labels("cache_entry").inc()
            return None
        return value

    async def put(self, level: Level, key: str, value: bytes) -> None:
        """Stores a value."""
        entry = zlib.crc32(value).to_bytes(_CHECKSUM_BYTES, "big") + value
        await self._try(lambda: self._redis.set(key, entry, px=self._ttl_ms), None)

    async def acquire(self, key: str) -> str | None:
        """A lock on `key` that nobody else holds; it expires after `_LOCK_S` seconds, should its holder die."""
        lock = secrets.token_hex(16)
        granted = await self._try(lambda: self._redis.set(f"{key}:lock", lock, nx=True, ex=_LOCK_S), True)
        return lock if granted is not None else None

    async def release(self, key: str, lock: str) -> None:
        """Gives the lock back if it has not expired."""
        await self._try(lambda: self._redis.eval(_RELEASE, 1, f"{key}:lock", lock), None)

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()
