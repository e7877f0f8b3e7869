"""Cache in Redis, shared by all gateways. If Redis is down, slow or full, answers are slower but do not fail.

Each command has a short deadline. After a failure Redis is not used for a moment, so that requests do not all wait for
a dead server. Values carry a checksum; a value that does not match it is a miss.
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

# Deletes the lock only if it is still held: after expiry another gateway may hold it.
_RELEASE_SCRIPT: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class RedisCache:
    """Cache in Redis.

    Args:
        url: redis:// or rediss:// URL, password included.
        ttl_s: Time to live of an entry in seconds.
        timeout_s: Deadline of one command in seconds.
        pause_s: Seconds without use of Redis after a failure.
        clock: Monotonic clock in seconds.

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
        except ValueError:  # the text of the error may quote the password
            raise ValueError("redis_url is not of the form redis://[:password@]host:port/database") from None
        self._redis = Redis.from_pool(pool)
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._clock = clock
        self._paused_until = -float("inf")

    async def _try(self, command: Callable[[], Awaitable[Any]], fallback: Any) -> Any:
        """Result of a command; `fallback` if Redis fails now or failed within `pause_s`."""
        if self._clock() < self._paused_until:
            return fallback
        try:
            async with asyncio.timeout(self._timeout_s):
                return await command()
        except ResponseError as error:  # Redis refuses the command: full, read-only, loading
            telemetry.count_failure(telemetry.FailureKind.REDIS)
            log.warning("redis refused a command: %s", type(error).__name__)
        except (RedisError, OSError, TimeoutError) as error:
            telemetry.count_failure(telemetry.FailureKind.REDIS)
            log.warning("redis failed (%s); not used for %g s", type(error).__name__, self._pause_s)
            self._paused_until = self._clock() + self._pause_s
        return fallback

    async def get(self, level: Level, key: str) -> bytes | None:
        """The value; None on a miss, or if the checksum does not match."""
        entry = await self._try(lambda: self._redis.get(key), None)
        if entry is None:
            return None
        checksum, value = bytes(entry[:_CHECKSUM_BYTES]), bytes(entry[_CHECKSUM_BYTES:])
        if zlib.crc32(value).to_bytes(_CHECKSUM_BYTES, "big") != checksum:
            telemetry.count_failure(telemetry.FailureKind.CACHE_ENTRY)
            return None
        return value

    async def put(self, level: Level, key: str, value: bytes) -> None:
        """Stores a value."""
        entry = zlib.crc32(value).to_bytes(_CHECKSUM_BYTES, "big") + value
        await self._try(lambda: self._redis.set(key, entry, px=self._ttl_ms), None)

    async def acquire(self, key: str) -> str | None:
        """An exclusive lock on `key`, which expires after `_LOCK_S` seconds; None while another gateway holds it."""
        lock = secrets.token_hex(16)
        granted = await self._try(lambda: self._redis.set(f"{key}:lock", lock, nx=True, ex=_LOCK_S), True)
        return lock if granted is not None else None

    async def release(self, key: str, lock: str) -> None:
        """Releases the lock, unless it has expired."""
        await self._try(lambda: self._redis.eval(_RELEASE_SCRIPT, 1, f"{key}:lock", lock), None)

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()
