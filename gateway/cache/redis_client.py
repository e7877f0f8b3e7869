"""Client of Redis whose commands never fail a request, for all that a gateway keeps there.

Each command has a short deadline. After a failure Redis is not used for a moment, so that requests do not all wait for
a dead server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from fovea import telemetry
from gateway.cache.base import MAX_VALUE_BYTES
from gateway.cache.redis_connection import RedisAccess, connection_pool, reason_of
from gateway.cache.value_keys import TAG_BYTES

__all__ = ["RedisClient"]

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 0.25
_PAUSE_S: Final = 2.0
_REMINDER_S: Final = 60.0
_MAX_CONNECTIONS: Final = 32
# One byte more than the largest value is asked for, which tells a value that is too large.
_MAX_REPLY_BYTES: Final = max(MAX_VALUE_BYTES.values()) + TAG_BYTES + 1


class RedisClient:
    """Client of one Redis.

    Args:
        access: Address of the server, password and TLS.
        timeout_s: Deadline of one command in seconds.
        pause_s: Seconds without use of Redis after a failure, and from one log line about Redis to the next. During an
            outage there is a line a minute.
        clock: Monotonic clock in seconds.

    Attributes:
        pool: Connections.
        commands: Commands of the package redis, for use in `attempt`.

    Raises:
        ValueError: See `connection_pool`.
    """

    def __init__(
        self,
        access: RedisAccess,
        *,
        timeout_s: float = _TIMEOUT_S,
        pause_s: float = _PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = connection_pool(
            access, timeout_s=timeout_s, max_connections=_MAX_CONNECTIONS, max_reply_bytes=_MAX_REPLY_BYTES
        )
        self.commands: Redis = Redis.from_pool(self.pool)
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._clock = clock
        self._paused_until = self._quiet_until = self._remind_at = -float("inf")

    async def attempt(self, command: Callable[[], Awaitable[Any]], fallback: Any) -> Any:
        """Result of a command; `fallback` if Redis fails now or failed within `pause_s`."""
        if self._clock() < self._paused_until:
            return fallback
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await command()
        except ResponseError as error:  # Redis refuses the command: full, read-only, loading, of another type
            telemetry.count_failure(telemetry.FailureKind.REDIS)
            self.warn("redis refused a command: %s", type(error).__name__)
        except (RedisError, OSError, TimeoutError) as error:
            telemetry.count_failure(telemetry.FailureKind.REDIS)
            self._fail(reason_of(error))
        else:
            self._succeed()
            return result
        return fallback

    async def answers(self) -> bool:
        """Whether Redis answers now; false without asking within `pause_s` after a failure."""
        return await self.attempt(self.commands.ping, None) is not None

    def _fail(self, reason: str) -> None:
        now = self._clock()
        if now >= self._remind_at:
            self.warn("redis failed: %s; not used for %g s", reason, self._pause_s)
            self._remind_at = now + _REMINDER_S
        self._paused_until = now + self._pause_s

    def _succeed(self) -> None:
        if self._remind_at > -float("inf"):
            self._remind_at = -float("inf")
            log.info("redis answers again")

    def warn(self, text: str, *values: object) -> None:
        """A log line, unless there was one within `pause_s`: failures are counted, and their lines would be many."""
        if self._clock() >= self._quiet_until:
            self._quiet_until = self._clock() + self._pause_s
            log.warning(text, *values)

    async def close(self) -> None:
        """Closes the connections."""
        await self.commands.aclose()
