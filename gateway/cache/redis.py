"""Cache in Redis, shared by all gateways. If Redis is down, slow or full, answers are slower but do not fail.

Each command has a short deadline. After a failure Redis is not used for a moment, so that requests do not all wait for
a dead server. Values are sealed with a key that Redis does not have; a value that does not open is a miss.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from fovea import telemetry
from gateway.cache.base import MAX_VALUE_BYTES, Level
from gateway.cache.redis_connection import RedisAccess, connection_pool, reason_of
from gateway.cache.value_keys import TAG_BYTES, ValueKeys

__all__ = ["RedisCache"]

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 0.25
_PAUSE_S: Final = 2.0
_MAX_CONNECTIONS: Final = 32
_LOCK_S: Final = 10
# One byte more than the largest value is asked for, which tells a value that is too large.
_MAX_REPLY_BYTES: Final = max(MAX_VALUE_BYTES.values()) + TAG_BYTES + 1

# Deletes the lock only if it is still held: after expiry another gateway may hold it.
_RELEASE_SCRIPT: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class RedisCache:
    """Cache in Redis.

    Args:
        access: Address of the server, password and TLS.
        keys: Keys that seal the values.
        ttl_s: Time to live of an entry in seconds.
        timeout_s: Deadline of one command in seconds.
        pause_s: Seconds without use of Redis after a failure, and from one log line about Redis to the next.
        clock: Monotonic clock in seconds.

    Raises:
        ValueError: See `connection_pool`.
    """

    def __init__(
        self,
        access: RedisAccess,
        keys: ValueKeys,
        *,
        ttl_s: float,
        timeout_s: float = _TIMEOUT_S,
        pause_s: float = _PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        pool = connection_pool(
            access, timeout_s=timeout_s, max_connections=_MAX_CONNECTIONS, max_reply_bytes=_MAX_REPLY_BYTES
        )
        self._redis = Redis.from_pool(pool)
        self._keys = keys
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._clock = clock
        self._paused_until = self._quiet_until = -float("inf")

    async def _try(self, command: Callable[[], Awaitable[Any]], fallback: Any) -> Any:
        """Result of a command; `fallback` if Redis fails now or failed within `pause_s`."""
        if self._clock() < self._paused_until:
            return fallback
        try:
            async with asyncio.timeout(self._timeout_s):
                return await command()
        except ResponseError as error:  # Redis refuses the command: full, read-only, loading, of another type
            telemetry.count_failure(telemetry.FailureKind.REDIS)
            self._warn("redis refused a command: %s", type(error).__name__)
        except (RedisError, OSError, TimeoutError) as error:
            telemetry.count_failure(telemetry.FailureKind.REDIS)
            self._warn("redis failed: %s; not used for %g s", reason_of(error), self._pause_s)
            self._paused_until = self._clock() + self._pause_s
        return fallback

    def _warn(self, text: str, *values: object) -> None:
        """A log line, unless there was one within `pause_s`: failures are counted, and their lines would be many."""
        if self._clock() >= self._quiet_until:
            self._quiet_until = self._clock() + self._pause_s
            log.warning(text, *values)

    async def get(self, level: Level, key: str) -> bytes | None:
        """The value; None on a miss, or if no gateway with the same key has stored it."""
        name, longest = self._name(key), MAX_VALUE_BYTES[level] + TAG_BYTES
        sealed = await self._try(lambda: self._redis.getrange(name, 0, longest), b"")
        if sealed == b"":  # also for a name without an entry
            return None
        is_short = isinstance(sealed, bytes) and len(sealed) <= longest
        value = self._keys.open(level, key, sealed) if is_short else None
        if value is None:
            telemetry.count_failure(telemetry.FailureKind.CACHE_ENTRY)
            self._warn("a value in redis was not written by a gateway with a key of this one; it is not used")
        return value

    async def put(self, level: Level, key: str, value: bytes) -> None:
        """Stores a value that is not larger than `MAX_VALUE_BYTES`."""
        if len(value) <= MAX_VALUE_BYTES[level]:
            sealed = self._keys.seal(level, key, value)
            await self._try(lambda: self._redis.set(self._name(key), sealed, px=self._ttl_ms), None)

    async def delete(self, level: Level, key: str) -> None:
        """Removes a value."""
        await self._try(lambda: self._redis.delete(self._name(key)), None)

    async def acquire(self, key: str) -> str | None:
        """An exclusive lock on `key`, which expires after `_LOCK_S` seconds; None while another gateway holds it."""
        lock = secrets.token_hex(16)
        granted = await self._try(lambda: self._redis.set(self._lock_name(key), lock, nx=True, ex=_LOCK_S), True)
        return lock if granted is not None else None

    async def release(self, key: str, lock: str) -> None:
        """Releases the lock, unless it has expired."""
        await self._try(lambda: self._redis.eval(_RELEASE_SCRIPT, 1, self._lock_name(key), lock), None)

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()

    def _name(self, key: str) -> str:
        """Name of an entry in Redis."""
        return f"{key}:{self._keys.namespace}" if self._keys.namespace else key

    def _lock_name(self, key: str) -> str:
        return f"{self._name(key)}:lock"
