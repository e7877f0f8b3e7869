"""Identical requests in progress share one computation, text as it comes included.

A computation runs in a task of its own and belongs to no caller: callers follow it, and when the last one has gone it
is cancelled. So a caller who leaves never takes the answer from the others. A computation that fails for a reason of
its starter alone (its deadline was shorter) is taken over by a follower; one that fails for a service's reason is
tried once more by them; one that fails because the request is wrong fails for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, TypeVar

from fovea.errors import Cancelled, DeadlineExceeded, InternalError, ServiceError, Unavailable

__all__ = ["Compute", "Finished", "SingleFlight"]

T = TypeVar("T")

Compute = Callable[[Callable[[str], None]], Awaitable[T]]
"""Computes a result and hands text to its argument as it comes."""


@dataclass(frozen=True)
class Finished(Generic[T]):
    """The last thing that `SingleFlight.run` yields.

    Attributes:
        result: What the computation returned.
        shared: It was started by another caller.
    """

    result: T
    shared: bool


class _Flight(Generic[T]):
    """One computation and those who follow it."""

    def __init__(self, compute: Compute[T]) -> None:
        self.followers = 0
        self.text = ""
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._run(compute))
        self.task.add_done_callback(self._done)

    async def _run(self, compute: Compute[T]) -> T:
        return await compute(self._append)

    def _append(self, text: str) -> None:
        self.text += text
        self._publish()

    def _publish(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _done(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # seen, even if the last follower has gone
        self._publish()

    async def wait(self, position: int) -> None:
        """Returns when there is text after `position`, or the computation is over."""
        while len(self.text) <= position and not self.task.done():
            await self._changed.wait()


class SingleFlight(Generic[T]):
    """Computations in progress by key."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}
        self._private: set[_Flight[T]] = set()

    async def run(self, key: str | None, compute: Compute[T], *, deadline: float) -> AsyncGenerator[str | Finished[T]]:
        """Yields text as it comes, then Finished.

        Args:
            key: Requests with the same key get the same answer; None to share with nobody.
            compute: Started if no computation of this key is in progress.
            deadline: Time of the event loop until which this caller waits.

        Raises:
            DeadlineExceeded: `deadline` has passed.
            ServiceError: The computation failed.
        """
        sent, tried_again = "", False
        while True:
            flight = self._flights.get(key) if key is not None else None
            if flight is not None and flight.task.done():  # over, but not yet forgotten
                flight = None
            shared = flight is not None
            if flight is None:
                flight = self._start(key, compute)
            flight.followers += 1
            try:
                while True:
                    await self._wait(flight, len(sent), deadline)
                    if len(flight.text) > len(sent):
                        if not flight.text.startswith(sent):  # a second try that came out differently
                            raise InternalError("the answer was interrupted; ask again")
                        piece, sent = flight.text[len(sent) :], flight.text
                        yield piece
                    elif flight.task.done():
                        break
                yield Finished(_result(flight.task), shared)
                return
            except ServiceError as error:
                over = flight.task.done() and not flight.task.cancelled()
                if not shared or not over or _is_the_requests_fault(error):
                    raise
                if not isinstance(error, (DeadlineExceeded, Cancelled)):
                    if tried_again:
                        raise
                    tried_again = True
            finally:
                self._leave(key, flight)

    @staticmethod
    async def _wait(flight: _Flight[T], position: int, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await flight.wait(position)
        except TimeoutError:
            raise DeadlineExceeded("the answer was not done within timeout_s", param="timeout_s") from None

    def _start(self, key: str | None, compute: Compute[T]) -> _Flight[T]:
        flight = _Flight(compute)
        if key is None:
            self._private.add(flight)
        else:
            self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._forget(key, flight))
        return flight

    def _leave(self, key: str | None, flight: _Flight[T]) -> None:
        flight.followers -= 1
        if flight.followers == 0 and not flight.task.done():
            flight.task.cancel()
            self._forget(key, flight)

    def _forget(self, key: str | None, flight: _Flight[T]) -> None:
        self._private.discard(flight)
        if key is not None and self._flights.get(key) is flight:
            del self._flights[key]

    async def close(self) -> None:
        """Cancels what is in progress and waits for it to end."""
        tasks = [flight.task for flight in (*self._flights.values(), *self._private)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _result(task: asyncio.Task[T]) -> T:
    if task.cancelled():
        raise Unavailable("the server is stopping; try again shortly", retry_after_s=1.0)
    return task.result()


def _is_the_requests_fault(error: ServiceError) -> bool:
    status = error.http_status
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Cancelled)
