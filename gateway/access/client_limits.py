"""Limits of each client: requests in a minute, questions in progress, pixels in a minute."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final

from fovea.errors import TooLarge
from fovea.telemetry import Refusal, count_refusal
from gateway.access.clients import Client
from gateway.access.concurrency import Concurrency, Lease
from gateway.access.errors import RateLimited
from gateway.access.minute_windows import MinuteWindows

if TYPE_CHECKING:  # imports the package redis, which only --redis-url needs
    from gateway.cache.redis_client import RedisClient

__all__ = ["ClientLimiter"]

MEGA: Final = 10**6


class ClientLimiter:
    """Limits of all clients.

    Args:
        redis: Client of a Redis that all gateways share; None to count in this process.
    """

    def __init__(self, redis: RedisClient | None = None) -> None:
        self._windows = MinuteWindows(redis)
        self._concurrency = Concurrency(redis)

    def question(self, client: Client, *, seconds: float) -> AbstractAsyncContextManager[Lease]:
        """Counts a question of a client, before anything of its body is read. A refused one is not counted.

        Args:
            client: Client.
            seconds: Seconds within which the deadline of the question will be known; `Lease.extend` sets it.

        Raises:
            RateLimited: The client is at a limit.
        """
        lease = self._concurrency.lease(client.id, client.limits.concurrency, seconds=seconds)
        limit = client.limits.requests_per_minute
        return lease if limit is None else self._counted(lease, client.id, limit)

    @asynccontextmanager
    async def _counted(self, lease: Lease, client_id: str, limit: int) -> AsyncIterator[Lease]:
        async with lease:
            wait_s = await self._windows.spend(client_id, "requests", 1, limit=limit)
            if wait_s:
                count_refusal(Refusal.CLIENT_REQUESTS)
                raise RateLimited(f"this client is at its limit of {limit} requests per minute", retry_after_s=wait_s)
            yield lease

    async def spend_pixels(self, client: Client, num_pixels: int) -> None:
        """Counts the pixels of the images of a question, before any is decoded.

        Args:
            client: Client.
            num_pixels: Pixels of all images together, by their headers.

        Raises:
            TooLarge: The images have more pixels than the client may send in a minute.
            RateLimited: The client is at its limit.
        """
        limit = client.limits.megapixels_per_minute
        if limit is None or not num_pixels:
            return
        if num_pixels > limit * MEGA:
            raise TooLarge(
                f"the images have {num_pixels / MEGA:.1f} megapixels; this client's limit is {limit} per minute",
                param="images",
            )
        wait_s = await self._windows.spend(client.id, "pixels", num_pixels, limit=limit * MEGA)
        if wait_s:
            count_refusal(Refusal.CLIENT_PIXELS)
            raise RateLimited(
                f"this client is at its limit of {limit} megapixels per minute; the images have"
                f" {num_pixels / MEGA:.1f}",
                param="images",
                retry_after_s=wait_s,
            )
