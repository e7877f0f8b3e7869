"""Arrival of request bodies: how many at once, how long each, and how fast."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Request
from starlette.types import Message, Receive

from fovea.errors import Overloaded, ServiceError
from fovea.telemetry import Refusal, count_refusal
from gateway.http.errors import RequestTimeout

__all__ = ["BodyArrivals"]

_GRACE_S: Final = 10.0
"""Seconds that a body may be behind the least rate: a radio link may pause that long."""
_REPLACEABLE_S: Final = 1.0
"""Seconds that a body must be behind the least rate to be replaced by a new one when all places are taken."""


_SMALL_BYTES: Final = 64 * 1024
"""Bytes of a body that is read at once when it has arrived, so that its deadline does not matter any more."""


class _Body:
    """A body that is being read.

    Args:
        client: Id of the client that sends it.
        started: Event-loop time of its beginning, in seconds.
        deadline: Scope of the reading.
    """

    def __init__(self, client: str, started: float, deadline: asyncio.Timeout) -> None:
        self.client = client
        self.started = started
        self.deadline = deadline
        self.num_bytes = 0
        self.has_arrived = False
        self.is_replaced = False

    def behind_s(self, now: float, min_rate: float) -> float:
        """Seconds since the time at which the bytes so far would have arrived at the least rate."""
        return now - self.started - self.num_bytes / min_rate


class BodyArrivals:
    """Limits on the bodies that are being read. Bodies that take long give their places to new ones.

    When all places are taken, a new body replaces the one that is furthest behind the least rate. Where none is behind,
    it replaces the slowest of the client that has the most, if that client has two more than the new one's. Otherwise
    the new body is refused. Clients that send slowly on many connections therefore do not keep the others out.

    Args:
        limit: Most bodies at once.
        timeout_s: Seconds within which a body must arrive.
        min_rate: Least mean rate of a body in bytes per second.
    """

    def __init__(self, limit: int, timeout_s: float, min_rate: float) -> None:
        self._limit = limit
        self._timeout_s = timeout_s
        self._min_rate = min_rate
        self._bodies: set[_Body] = set()

    @asynccontextmanager
    async def arrival(self, request: Request, client: str) -> AsyncIterator[Request]:
        """The request, whose body is read within the limits as long as the context lasts.

        Args:
            request: Request whose body is unread.
            client: Id of its client.

        Raises:
            Overloaded: All places are taken, or a new body has taken the place of this one.
            RequestTimeout: The body did not arrive in time.
        """
        self._make_place(client)
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(started + min(self._timeout_s, _GRACE_S)) as deadline:
                body = _Body(client, started, deadline)
                self._bodies.add(body)
                try:
                    yield Request(request.scope, self._counting(request, body))
                finally:
                    self._bodies.discard(body)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise self._late(body) from None

    def _counting(self, request: Request, body: _Body) -> Receive:
        async def receive() -> Message:
            message = await request.receive()
            body.num_bytes += len(message.get("body", b""))
            body.has_arrived = not message.get("more_body", False)
            if not body.is_replaced and not (body.has_arrived and body.num_bytes <= _SMALL_BYTES):
                allowed_s = _GRACE_S + body.num_bytes / self._min_rate
                body.deadline.reschedule(
                    body.started + (self._timeout_s if body.has_arrived else min(self._timeout_s, allowed_s))
                )
            return message

        return receive

    def _late(self, body: _Body) -> ServiceError:
        if body.is_replaced:
            return self._refused(", and this one is the slowest")
        if asyncio.get_running_loop().time() >= body.started + self._timeout_s:
            return RequestTimeout(f"the request body did not arrive within {self._timeout_s:g} s")
        return RequestTimeout(f"the request body arrived at less than {self._min_rate:,} bytes per second")

    def _refused(self, advice: str) -> Overloaded:
        count_refusal(Refusal.BODIES)
        return Overloaded(f"the server is at its limit of {self._limit} bodies being read{advice}", retry_after_s=1.0)

    def _make_place(self, client: str) -> None:
        """Replaces a body if all places are taken."""
        if len(self._bodies) < self._limit:
            return
        body = self._replaceable(client)
        if body is None:
            raise self._refused("; try again shortly")
        body.is_replaced = True
        if not body.deadline.expired():
            body.deadline.reschedule(asyncio.get_running_loop().time())
        self._bodies.discard(body)

    def _replaceable(self, client: str) -> _Body | None:
        now = asyncio.get_running_loop().time()
        arriving = [body for body in self._bodies if not body.has_arrived]
        if not arriving:
            return None
        slowest = max(arriving, key=lambda body: body.behind_s(now, self._min_rate))
        if slowest.behind_s(now, self._min_rate) > _REPLACEABLE_S:
            return slowest
        num_bodies = Counter(body.client for body in arriving)
        greedy, most = num_bodies.most_common(1)[0]
        if most < num_bodies[client] + 2:
            return None
        return max(
            (body for body in arriving if body.client == greedy), key=lambda body: body.behind_s(now, self._min_rate)
        )
