"""Retries during an outage of a service, and after the refusal of one replica.

During an outage a request keeps its visual tokens, waits, and continues. A request that one replica refuses because it
is overloaded is tried once on another.

After a stream breaks, the answer is generated again from the start, with the same visual tokens and the same seed. The
new text begins with the text already sent, which is skipped. See docs/adr/0012-resume-by-generating-again.md.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, TypeAlias, TypeVar

from fovea import telemetry
from fovea.errors import DeadlineExceeded, InternalError, Overloaded, Unavailable
from gateway.clients.base import ServiceClient
from gateway.clients.llm import GenerateDone
from gateway.core.deadlines import now, time_left
from gateway.core.generate_spec import Sampling
from gateway.core.text_delta import GeneratedText, TextDelta

__all__ = ["Tried", "call_with_retry", "generate_with_retry"]

_MAX_ATTEMPTS: Final = 6
"""Maximum number of attempts without progress. It limits how often one request can crash a service."""
_FIRST_DELAY_S: Final = 0.1
_MAX_DELAY_S: Final = 2.0
_REPORT_MARGIN_S: Final = 0.1
"""Margin before the deadline, left for an error that names the service."""

_MAX_REFUSED_CALLS: Final = 8
"""Maximum number of refused calls. While others call as well, round robin may reach the replica that has refused again
and again, with a probability of 1/2 each time if there are two."""
_MAX_REPLICAS: Final = 2

Reply = TypeVar("Reply")
Tried: TypeAlias = tuple[str, ...]
"""Ids of the replicas that have refused a request."""
Generate = Callable[[Sampling, float, Tried], AsyncGenerator[TextDelta | GenerateDone]]
"""Function that calls the LLM service, given the sampling parameters, a timeout in seconds, and the tried replicas."""


async def call_with_retry(
    client: ServiceClient[Any],
    call: Callable[[float, Tried], Awaitable[Reply]],
    *,
    deadline: float,
    outage_timeout_s: float,
) -> Reply:
    """Reply of a unary call, repeated while the service is unavailable, and once if a replica is overloaded.

    Args:
        client: Client of the called service.
        call: Function that makes the call, given its timeout in seconds and the tried replicas.
        deadline: Event-loop time in seconds.
        outage_timeout_s: Longest outage in seconds.

    Raises:
        Unavailable: The outage lasted longer than `outage_timeout_s`.
        DeadlineExceeded: `deadline` has passed.
        ServiceError: The service refused the call, or failed.
    """
    outage, refusals = _Outage(client, deadline, outage_timeout_s), _Refusals(client)
    while True:
        try:
            return await call(time_left(deadline), refusals.tried)
        except Unavailable as error:
            await outage.wait(error)
        except Overloaded as error:
            refusals.add(error)


async def generate_with_retry(
    client: ServiceClient[Any],
    call: Generate,
    sampling: Sampling,
    *,
    deadline: float,
    outage_timeout_s: float,
) -> AsyncGenerator[TextDelta | GenerateDone]:
    """Pieces of text as they are decoded, then GenerateDone. Nothing is sent twice, even if the stream breaks.

    Args:
        client: Client of the called service.
        call: Function that makes the call. It is called again after each break of the stream.
        sampling: Sampling parameters. Random sampling without a seed gets one, so that each attempt gives the same
            text.
        deadline: Event-loop time in seconds.
        outage_timeout_s: Longest outage in seconds.

    Raises:
        Unavailable: The outage lasted longer than `outage_timeout_s`.
        InternalError: A later attempt produced a different text.
        DeadlineExceeded: `deadline` has passed.
        ServiceError: The service refused the call, or failed.
    """
    if not sampling.is_deterministic:
        sampling = replace(sampling, seed=secrets.randbits(63))
    outage, refusals = _Outage(client, deadline, outage_timeout_s), _Refusals(client)
    resumable = _ResumableText()
    while True:
        resumable.restart()
        try:
            async with aclosing(call(sampling, time_left(deadline), refusals.tried)) as events:
                async for event in events:
                    if isinstance(event, GenerateDone):
                        resumable.check_complete()
                        yield event
                        return
                    piece = resumable.append(event)
                    if not piece.is_empty:
                        outage.reset()
                        yield piece
            raise InternalError(f"the {client.name} ended its answer before it was done")
        except Unavailable as error:
            await outage.wait(error)
        except Overloaded as error:
            if resumable.has_begun:  # not a refusal: the service ran out of memory
                raise
            refusals.add(error)


class _Refusals:
    """Refusals of one request by overloaded replicas.

    A second call may reach the replica that has refused. It then refuses again, before it receives the message.

    Args:
        client: Client of the service.

    Attributes:
        tried: Ids of the replicas that have refused.
    """

    def __init__(self, client: ServiceClient[Any]) -> None:
        self.tried: Tried = ()
        self._client = client
        self._calls = 0
        self._soonest: Overloaded | None = None

    def add(self, error: Overloaded) -> None:
        """Returns if another replica may accept the request.

        Raises:
            Overloaded: There is no other replica, or it has refused as well. The error with the shortest retry time.
        """
        if not error.replica or not self._client.connection.has_replicas:
            raise error
        self._calls += 1
        if error.replica not in self.tried:
            self.tried = (*self.tried, error.replica)
            if self._soonest is None or (error.retry_after_s or 0) < (self._soonest.retry_after_s or 0):
                self._soonest = error
        assert self._soonest is not None, "the first replica was not tried before"
        if len(self.tried) == _MAX_REPLICAS or self._calls == _MAX_REFUSED_CALLS:
            raise self._soonest
        telemetry.count_failure(telemetry.FailureKind.REPLICA_OVERLOADED)


class _ResumableText:
    """Text of an answer over several attempts. The text of each attempt must begin with the text already sent.

    So must its tokens, if their log-probabilities are requested. The log-probabilities themselves may differ by
    rounding errors; those already sent stay.
    """

    def __init__(self) -> None:
        self._sent = GeneratedText()
        self._attempt = GeneratedText()

    def restart(self) -> None:
        """Begins another attempt."""
        self._attempt = GeneratedText()

    @property
    def has_begun(self) -> bool:
        """Whether the attempt has received text."""
        return self._attempt.exceeds(GeneratedText())

    def append(self, piece: TextDelta) -> TextDelta:
        """The part of the text that has not been sent yet; empty while the attempt repeats sent text.

        Raises:
            InternalError: The text differs from the text already sent.
        """
        self._attempt.append(piece)
        unsent = self._attempt.after(self._sent)
        if unsent is None:
            raise _different_text()
        self._sent.append(unsent)
        return unsent

    def check_complete(self) -> None:
        """Checks the text at the end of an attempt.

        Raises:
            InternalError: The text differs from the text already sent.
        """
        if not self._attempt.is_same(self._sent):
            raise _different_text()


def _different_text() -> InternalError:
    return InternalError("the answer was interrupted, and came out differently the second time; ask again")


class _Outage:
    """Outage of one service during one request.

    Args:
        client: Client of the service.
        deadline: Deadline of the request, in event-loop time.
        timeout_s: Longest outage in seconds, from the first failure.
    """

    def __init__(self, client: ServiceClient[Any], deadline: float, timeout_s: float) -> None:
        self._client = client
        self._deadline = deadline
        self._timeout_s = timeout_s
        self._started_at: float | None = None
        self._attempts = 0

    def reset(self) -> None:
        """Ends the outage, because the service made progress. The next failure starts another one."""
        self._started_at, self._attempts = None, 0

    async def wait(self, error: Unavailable) -> None:
        """Waits until another attempt may succeed.

        Raises:
            Unavailable: `error`, if the outage timeout has passed or there were too many attempts.
            DeadlineExceeded: The request's deadline is reached.
        """
        failed_at = now()
        self._started_at = failed_at if self._started_at is None else self._started_at
        self._attempts += 1
        outage_ends_at = self._started_at + self._timeout_s
        wait_until = min(outage_ends_at, self._deadline - _REPORT_MARGIN_S)
        # The delays are random, so that not all gateways call a recovered service at once.
        delay = min(_FIRST_DELAY_S * 2 ** (self._attempts - 1), _MAX_DELAY_S) * random.uniform(0.5, 1.0)
        if self._attempts < _MAX_ATTEMPTS:
            await asyncio.sleep(max(min(delay, wait_until - failed_at), 0))
            if failed_at + delay < wait_until and await self._client.reachable(wait_until - failed_at - delay):
                telemetry.count_failure(telemetry.FailureKind.OUTAGE)
                return
        if wait_until < outage_ends_at and self._attempts < _MAX_ATTEMPTS:
            raise DeadlineExceeded(
                f"the {self._client.name} was unavailable until timeout_s had passed", param="timeout_s"
            ) from error
        raise error
