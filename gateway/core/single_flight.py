"""Single-flight: identical requests in progress share one computation, and its text while it is generated.

A computation runs in its own task and is independent of its callers. It is cancelled when its last caller leaves, so
one caller that leaves does not end it for the others. The other callers react to a failure by its cause: a failure of
the caller that started it (a shorter deadline) starts a new computation; a failure of a service starts a new one once;
an invalid request and a full queue fail for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, TypeVar

from fovea.errors import Cancelled, DeadlineExceeded, InternalError, ServiceError, Unavailable
from gateway.core.deadlines import until
from gateway.core.text_delta import GeneratedText, TextDelta

__all__ = ["Compute", "FlightResult", "SingleFlight"]

T = TypeVar("T")

Compute = Callable[[Callable[[TextDelta], None]], Awaitable[T]]
"""A computation of a result; its argument receives pieces of text as they are generated."""


@dataclass(frozen=True)
class FlightResult(Generic[T]):
    """Final event of `SingleFlight.run`.

    Attributes:
        result: Result of the computation.
        shared: Whether another caller started the computation.
    """

    result: T
    shared: bool


class _Flight(Generic[T]):
    """A computation in progress and the number of its callers."""

    def __init__(self, compute: Compute[T]) -> None:
        self.num_callers = 0
        self.generated = GeneratedText()
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._run(compute))
        self.task.add_done_callback(self._on_done)

    async def _run(self, compute: Compute[T]) -> T:
        return await compute(self._append)

    def _append(self, delta: TextDelta) -> None:
        self.generated.append(delta)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _on_done(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it if no caller is left
        self._notify()

    async def wait(self, sent: GeneratedText) -> None:
        """Returns when there is more text than was sent, or when the computation has ended."""
        while not self.generated.exceeds(sent) and not self.task.done():
            await self._changed.wait()


class SingleFlight(Generic[T]):
    """Computations in progress, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}
        self._private: set[_Flight[T]] = set()

    async def run(
        self, key: str | None, compute: Compute[T], *, deadline: float
    ) -> AsyncGenerator[TextDelta | FlightResult[T]]:
        """Pieces of text as they are generated, then FlightResult.

        Args:
            key: Key of the computation; None for a computation that is not shared.
            compute: The computation, started if none with this key is in progress.
            deadline: Event-loop time until which this caller waits, in seconds.

        Raises:
            DeadlineExceeded: `deadline` has passed.
            ServiceError: The computation failed.
        """
        sent, retried = GeneratedText(), False
        while True:
            flight, shared = self._join(key, compute)
            try:
                async with aclosing(self._pieces(flight, sent, deadline)) as pieces:
                    async for piece in pieces:
                        yield piece
                yield FlightResult(_result(flight.task), shared)
                return
            except ServiceError as error:
                ended = flight.task.done() and not flight.task.cancelled()
                if not shared or not ended or _fails_for_all(error):
                    raise
                if not isinstance(error, (DeadlineExceeded, Cancelled)):
                    if retried:
                        raise
                    retried = True
            finally:
                self._leave(key, flight)

    def _join(self, key: str | None, compute: Compute[T]) -> tuple[_Flight[T], bool]:
        """The computation of this key, started if none is in progress, and whether another caller started it."""
        flight = self._flights.get(key) if key is not None else None
        shared = flight is not None and not flight.task.done()
        if flight is None or not shared:
            flight = self._start(key, compute)
        flight.num_callers += 1
        return flight, shared

    @staticmethod
    async def _pieces(flight: _Flight[T], sent: GeneratedText, deadline: float) -> AsyncGenerator[TextDelta]:
        """Pieces of the computation's text after `sent`, to which they are appended, until the computation ends."""
        while True:
            async with until(deadline):
                await flight.wait(sent)
            if flight.generated.exceeds(sent):
                piece = flight.generated.after(sent)
                if piece is None:  # a new computation gave another text
                    raise InternalError("the answer was interrupted; ask again")
                sent.append(piece)
                yield piece
            elif flight.task.done():
                return

    def _start(self, key: str | None, compute: Compute[T]) -> _Flight[T]:
        flight = _Flight(compute)
        if key is None:
            self._private.add(flight)
        else:
            self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._remove(key, flight))
        return flight

    def _leave(self, key: str | None, flight: _Flight[T]) -> None:
        flight.num_callers -= 1
        if flight.num_callers == 0 and not flight.task.done():
            flight.task.cancel()
            self._remove(key, flight)

    def _remove(self, key: str | None, flight: _Flight[T]) -> None:
        self._private.discard(flight)
        if key is not None and self._flights.get(key) is flight:
            del self._flights[key]

    async def close(self) -> None:
        """Cancels the computations in progress and waits until they have ended."""
        tasks = [flight.task for flight in (*self._flights.values(), *self._private)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _result(task: asyncio.Task[T]) -> T:
    if task.cancelled():
        raise Unavailable("the server is stopping; try again shortly", retry_after_s=1.0)
    return task.result()


def _fails_for_all(error: ServiceError) -> bool:
    status = error.http_status
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Cancelled)
