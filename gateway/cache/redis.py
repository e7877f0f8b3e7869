"""Cache in Redis, shared by all gateways. If Redis is down, slow or full, answers are slower but do not fail.

Values are sealed with a key that Redis does not have; a value that does not open is a miss.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, TypeVar

from fovea import telemetry
from fovea.rpc.messages import run_off_loop
from gateway.cache.base import MAX_VALUE_BYTES, Level
from gateway.cache.redis_client import RedisClient
from gateway.cache.value_keys import TAG_BYTES, ValueKeys

__all__ = ["RedisCache"]

T = TypeVar("T")

_LOCK_S: Final = 10
_OFF_LOOP_BYTES: Final = 2**18  # the signature of this many bytes takes less than a millisecond

# Deletes the lock only if it is still held: after expiry another gateway may hold it.
_RELEASE_SCRIPT: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class RedisCache:
    """Cache in Redis.

    Args:
        redis: Client of the Redis, which this cache closes.
        keys: Keys that seal the values.
        ttl_s: Time to live of an entry in seconds.
    """

    def __init__(self, redis: RedisClient, keys: ValueKeys, *, ttl_s: float) -> None:
        self._redis = redis
        self._keys = keys
        self._ttl_ms = max(1, round(ttl_s * 1000))

    async def get(self, level: Level, key: str) -> bytes | None:
        """The value; None on a miss, or if no gateway with the same key has stored it."""
        name, longest = self._name(key), MAX_VALUE_BYTES[level] + TAG_BYTES
        sealed = await self._redis.attempt(lambda: self._redis.commands.getrange(name, 0, longest), b"")
        if sealed == b"":  # also for a name without an entry
            return None
        is_short = isinstance(sealed, bytes) and len(sealed) <= longest
        value = await _off_loop(sealed, lambda: self._keys.open(level, key, sealed)) if is_short else None
        if value is None:
            telemetry.count_failure(telemetry.FailureKind.CACHE_ENTRY)
            self._redis.warn("a value in redis was not written by a gateway with a key of this one; it is not used")
        return value

    async def put(self, level: Level, key: str, value: bytes) -> None:
        """Stores a value that is not larger than `MAX_VALUE_BYTES`."""
        if len(value) <= MAX_VALUE_BYTES[level]:
            sealed = await _off_loop(value, lambda: self._keys.seal(level, key, value))
            await self._redis.attempt(lambda: self._redis.commands.set(self._name(key), sealed, px=self._ttl_ms), None)

    async def delete(self, level: Level, key: str) -> None:
        """Removes a value."""
        await self._redis.attempt(lambda: self._redis.commands.delete(self._name(key)), None)

    async def acquire(self, key: str) -> str | None:
        """An exclusive lock on `key`, which expires after `_LOCK_S` seconds; None while another gateway holds it."""
        lock = secrets.token_hex(16)
        granted = await self._redis.attempt(
            lambda: self._redis.commands.set(self._lock_name(key), lock, nx=True, ex=_LOCK_S), True
        )
        return lock if granted is not None else None

    async def release(self, key: str, lock: str) -> None:
        """Releases the lock, unless it has expired."""
        await self._redis.attempt(
            lambda: self._redis.commands.eval(_RELEASE_SCRIPT, 1, self._lock_name(key), lock), None
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.close()

    def _name(self, key: str) -> str:
        """Name of an entry in Redis."""
        return f"{key}:{self._keys.namespace}" if self._keys.namespace else key

    def _lock_name(self, key: str) -> str:
        return f"{self._name(key)}:lock"


async def _off_loop(value: bytes, function: Callable[[], T]) -> T:
    """Result of a function that reads all of a value; in another thread if the value is large."""
    return function() if len(value) <= _OFF_LOOP_BYTES else await run_off_loop(function)
