"""Arrival of request bodies: how many at once, how long each, and how fast."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType
from typing import Final

from fastapi import Request
from starlette.types import Message

from fovea.errors import Overloaded, ServiceError
from fovea.telemetry import Refusal, count_refusal
from gateway.http.errors import RequestTimeout

__all__ = ["BodyArrivals"]

_GRACE_S: Final = 10.0
"""Seconds that a body may be behind the least rate: a radio link may pause that long."""
_REPLACEABLE_S: Final = 1.0
"""Seconds that a body must be behind the least rate to be replaced by a new one when all places are taken."""


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
        self._bodies: set[_Body] = set()
        self.timeout_s = timeout_s
        self.min_rate = min_rate

    def arrival(self, request: Request, client: str) -> _Body:
        """Context of the request, whose body is read within the limits as long as it lasts.

        Args:
            request: Request whose body is unread.
            client: Id of its client.

        Raises:
            Overloaded: All places are taken, or a new body has taken the place of this one.
            RequestTimeout: The body did not arrive in time.
        """
        return _Body(self, request, client)

    def enter(self, body: _Body) -> None:
        """Gives a new body a place, which may have been that of another one."""
        self._make_place(body.client)
        self._bodies.add(body)

    def leave(self, body: _Body) -> None:
        """Ends a body's part in the count."""
        self._bodies.discard(body)

    def late(self, body: _Body) -> ServiceError:
        """Error of a body that did not arrive in time, or that was replaced."""
        if body.is_replaced:
            return self._refused(", and this one is the slowest")
        if asyncio.get_running_loop().time() >= body.started + self.timeout_s:
            return RequestTimeout(f"the request body did not arrive within {self.timeout_s:g} s")
        return RequestTimeout(f"the request body arrived at less than {self.min_rate:,} bytes per second")

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
        body.replace()
        self._bodies.discard(body)

    def _replaceable(self, client: str) -> _Body | None:
        now = asyncio.get_running_loop().time()
        arriving = [body for body in self._bodies if not body.has_arrived]
        if not arriving:
            return None
        slowest = max(arriving, key=lambda body: body.behind_s(now))
        if slowest.behind_s(now) > _REPLACEABLE_S:
            return slowest
        num_bodies = Counter(body.client for body in arriving)
        greedy, most = num_bodies.most_common(1)[0]
        if most < num_bodies[client] + 2:
            return None
        return max((body for body in arriving if body.client == greedy), key=lambda body: body.behind_s(now))


class _Body:
    """A body that is being read.

    Args:
        arrivals: All bodies, and their limits.
        request: Request whose body is unread.
        client: Id of the client that sends it.

    Attributes:
        started: Event-loop time of its beginning, in seconds.
        has_arrived: Whether it is complete.
        is_replaced: Whether a new body has its place.
    """

    def __init__(self, arrivals: BodyArrivals, request: Request, client: str) -> None:
        self.client = client
        self.started = 0.0
        self.has_arrived = False
        self.is_replaced = False
        self._arrivals = arrivals
        self._request = request
        self._num_bytes = 0
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Request:
        self._arrivals.enter(self)
        loop = asyncio.get_running_loop()
        self.started = loop.time()
        await self._timeout.__aenter__()
        # Not before reading waits for the first time. A body that is there already needs no timer.
        self._start = loop.call_soon(self._set_deadline)
        return Request(self._request.scope, self._receive)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._start.cancel()
        self._arrivals.leave(self)
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise self._arrivals.late(self) from None

    async def _receive(self) -> Message:
        message = await self._request.receive()
        self._num_bytes += len(message.get("body", b""))
        self.has_arrived = not message.get("more_body", False)
        if self._timeout.when() is not None:  # else it is set when reading waits
            self._set_deadline()
        return message

    def _set_deadline(self) -> None:
        """Sets the deadline by what has arrived. A body that has lost its place keeps the one that is over."""
        if self.is_replaced:
            return
        allowed_s = self._arrivals.timeout_s
        if not self.has_arrived:
            allowed_s = min(allowed_s, _GRACE_S + self._num_bytes / self._arrivals.min_rate)
        self._timeout.reschedule(self.started + allowed_s)

    def behind_s(self, now: float) -> float:
        """Seconds since the time at which the bytes so far would have arrived at the least rate."""
        return now - self.started - self._num_bytes / self._arrivals.min_rate

    def replace(self) -> None:
        """Ends the reading, because a new body takes the place."""
        self.is_replaced = True
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())
