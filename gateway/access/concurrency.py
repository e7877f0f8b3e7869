"""Questions in progress by client, in all gateways together: leases that expire, so that a dead gateway frees its own.

With Redis a client has a sorted set of its leases, with the time at which each expires. This process counts its own
leases as well: they alone limit the client while Redis is down.
"""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

from fovea.telemetry import Refusal, count_refusal
from gateway.access.errors import RateLimited

if TYPE_CHECKING:  # imports the package redis, which only --redis-url needs
    from gateway.cache.redis_client import RedisClient

__all__ = ["Concurrency", "Lease"]

_RETRY_S: Final = 1.0
"""Seconds after which a client at its limit may retry: when one of its questions ends is not known."""

# KEYS: the client's leases. ARGV: limit, lease, seconds. 1 if the lease was given. Times are those of Redis.
_ACQUIRE: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[3])) end
return 1
"""
# KEYS: the client's leases. ARGV: lease, seconds.
_EXTEND: Final = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1] + time[2] / 1000000 + ARGV[2], ARGV[1])
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2])) end
return 1
"""


class Lease:
    """A question in progress: a context that is entered at its beginning and left at its end.

    Args:
        here: Questions in progress of each client in this process.
        redis: Client of Redis; None if no lease is held there.
        client_id: Id of the client.
        limit: Most questions in progress of the client; None for no limit.
        seconds: Seconds after which the lease expires, if this process dies.
    """

    def __init__(
        self, here: Counter[str], redis: RedisClient | None, client_id: str, limit: int | None, seconds: float
    ) -> None:
        self._here = here
        self._redis = redis if limit is not None else None
        self._client_id = client_id
        self._limit = limit
        self._seconds = seconds
        self._key = f"fovea:running:{client_id}"
        self._id = "" if self._redis is None else secrets.token_hex(16)

    async def __aenter__(self) -> Self:
        if self._limit is None:
            return self
        if self._here[self._client_id] >= self._limit:
            raise _at_limit(self._limit)
        self._here[self._client_id] += 1
        try:
            if not await self._acquire(self._limit):
                raise _at_limit(self._limit)
        except BaseException:
            self._forget()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._limit is None:
            return
        try:
            await self._release()
        finally:
            self._forget()

    def _forget(self) -> None:
        self._here[self._client_id] -= 1
        if not self._here[self._client_id]:
            del self._here[self._client_id]

    async def _acquire(self, limit: int) -> bool:
        """Whether the lease was given. It is if Redis does not answer."""
        if self._redis is None:
            return True
        redis = self._redis
        arguments = (limit, self._id, f"{self._seconds:.3f}")
        given = await redis.attempt(lambda: redis.commands.eval(_ACQUIRE, 1, self._key, *arguments), 1)
        return bool(given)

    async def extend(self, seconds: float) -> None:
        """Lets the lease expire after `seconds` from now."""
        if self._redis is not None:
            redis = self._redis
            await redis.attempt(lambda: redis.commands.eval(_EXTEND, 1, self._key, self._id, f"{seconds:.3f}"), 1)

    async def _release(self) -> None:
        """Ends the lease. If Redis does not answer, it expires."""
        if self._redis is not None:
            redis = self._redis
            await redis.attempt(lambda: redis.commands.zrem(self._key, self._id), 0)


class Concurrency:
    """Leases of all clients.

    Args:
        redis: Client of a Redis that all gateways share; None to count in this process alone.
    """

    def __init__(self, redis: RedisClient | None) -> None:
        self._redis = redis
        self._here: Counter[str] = Counter()

    def lease(self, client_id: str, limit: int | None, *, seconds: float) -> Lease:
        """Lease, held while a question is in progress.

        Args:
            client_id: Id of the client.
            limit: Most questions in progress; None for no limit.
            seconds: Seconds after which the lease expires, if this process dies.

        Raises:
            RateLimited: The client has `limit` questions in progress. Raised as the context is entered.
        """
        return Lease(self._here, self._redis, client_id, limit, seconds)


def _at_limit(limit: int) -> RateLimited:
    count_refusal(Refusal.CLIENT_CONCURRENCY)
    return RateLimited(
        f"this client is at its limit of {limit} questions in progress; try again when one is answered",
        retry_after_s=_RETRY_S,
    )
