"""What an answer does while a service is away: it keeps its visual tokens, waits, and takes up where it was.

A stream that broke is generated again from the start, from the same tokens and with the same seed, so that its text
begins with what the client has already; that much is left out. docs/adr/0012-resume-by-generating-again.md says why.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, TypeVar

from fovea import telemetry
from fovea.errors import DeadlineExceeded, InternalError, Unavailable
from gateway.clients.base import ServiceClient
from gateway.clients.llm import GenerateDone, Sampling

__all__ = ["call_with_retry", "deadline_exceeded", "generate_with_retry"]

_MAX_TRIES: Final = 6
"""Calls that reached the service and got no further. A request that ends its server must not end all the others."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_TO_SAY_SO_S: Final = 0.1
"""Before the deadline, so that the client hears which service was away."""

Reply = TypeVar("Reply")
Generate = Callable[[Sampling, float], AsyncGenerator[str | GenerateDone]]
"""One call of the LLM service, with this sampling and this many seconds."""


async def call_with_retry(
    client: ServiceClient[Any], call: Callable[[float], Awaitable[Reply]], *, deadline: float, outage_timeout_s: float
) -> Reply:
    """The reply of a service or, while it is away, of it when it is back.

    Args:
        client: Whose service `call` calls.
        call: With so many seconds; again after each break.
        deadline: Of the event loop's time.
        outage_timeout_s: How long one outage may last.

    Raises:
        Unavailable: It was away for longer than `outage_timeout_s`.
        DeadlineExceeded: `deadline` has passed.
        ServiceError: It refused, or failed.
    """
    outage = _Outage(client, deadline, outage_timeout_s)
    while True:
        try:
            return await call(_left(deadline))
        except Unavailable as error:
            await outage.wait(error)


async def generate_with_retry(
    client: ServiceClient[Any],
    call: Generate,
    sampling: Sampling,
    *,
    deadline: float,
    outage_timeout_s: float,
) -> AsyncGenerator[str | GenerateDone]:
    """Text as it is decoded, each piece once whatever happens to the link, then GenerateDone.

    Args:
        client: Whose service `call` calls.
        call: Called again after each break.
        sampling: Where it is random without a seed it gets one: only then is the text the same the next time.
        deadline: Of the event loop's time.
        outage_timeout_s: How long one outage may last.

    Raises:
        Unavailable: It did.
        InternalError: The text came out differently the next time.
        DeadlineExceeded: `deadline` has passed.
        ServiceError: The service refused, or failed.
    """
    if sampling.temperature > 0 and sampling.seed is None:
        sampling = replace(sampling, seed=secrets.randbits(63))
    outage = _Outage(client, deadline, outage_timeout_s)
    sent = ""
    while True:
        text = ""
        try:
            async with aclosing(call(sampling, _left(deadline))) as events:
                async for event in events:
                    if isinstance(event, GenerateDone):
                        if text != sent:
                            raise _differs()
                        yield event
                        return
                    text += event
                    if len(text) > len(sent):
                        if not text.startswith(sent):
                            raise _differs()
                        piece, sent = text[len(sent) :], text
                        outage.over()
                        yield piece
            raise InternalError(f"the {client.name} ended its answer before it was done")
        except Unavailable as error:
            await outage.wait(error)


def _differs() -> InternalError:
    return InternalError("the answer was interrupted, and came out differently the second time; ask again")


class _Outage:
    """One service that is away, and how long an answer waits for it.

    Args:
        client: Of the service.
        deadline: Of the answer, in the event loop's time.
        outage_timeout_s: From the first failure on.
    """

    def __init__(self, client: ServiceClient[Any], deadline: float, outage_timeout_s: float) -> None:
        self._client = client
        self._deadline = deadline
        self._patience_s = outage_timeout_s
        self._since: float | None = None
        self._tries = 0

    def over(self) -> None:
        """The service got on with it: the next failure is another outage."""
        self._since, self._tries = None, 0

    async def wait(self, error: Unavailable) -> None:
        """Returns when another try may succeed.

        Raises:
            Unavailable: `error`, when patience is at its end.
            DeadlineExceeded: When the answer's time is.
        """
        now = asyncio.get_running_loop().time()
        self._since = now if self._since is None else self._since
        self._tries += 1
        until = min(self._since + self._patience_s, self._deadline - _TO_SAY_SO_S)
        # Pauses that differ: the sites of a service that comes back do not all call it at once.
        pause = min(_FIRST_PAUSE_S * 2 ** (self._tries - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        if self._tries < _MAX_TRIES:
            await asyncio.sleep(max(min(pause, until - now), 0))
            if now + pause < until and await self._client.reachable(until - now - pause):
                telemetry.FAILURES.labels("outage").inc()
                return
        if until < self._since + self._patience_s and self._tries < _MAX_TRIES:
            raise DeadlineExceeded(
                f"the {self._client.name} was away until timeout_s had passed", param="timeout_s"
            ) from error
        raise error


def deadline_exceeded() -> DeadlineExceeded:
    """The answer's time is over."""
    return DeadlineExceeded("the answer was not done within timeout_s", param="timeout_s")


def _left(deadline: float) -> float:
    left = deadline - asyncio.get_running_loop().time()
    if left <= 0:
        raise deadline_exceeded()
    return left
