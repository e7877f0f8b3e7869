"""Measurement: a closed loop of clients, in rounds that alternate between the models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from fovea.bench.completion import Completion, Failure
from fovea.bench.endpoint import Endpoint
from fovea.bench.requests import BodyQueue, Question
from fovea.bench.sender import Sender
from fovea.client import AnswerError

__all__ = ["Load", "Measurement", "Round", "measure"]

_BODIES_AHEAD: Final = 256


@dataclass(frozen=True)
class Load:
    """How much load a run makes.

    Args:
        concurrency: numbers of clients, one after the other; each client sends its next request after an answer.
        requests: requests of a round; None with `duration_s`.
        duration_s: seconds in which a round starts requests; None with `requests`.
        rounds: rounds of each model at each number of clients.
        warm_up: requests of each model at each number of clients that are not counted; None for one from each client.
    """

    concurrency: Sequence[int] = (1,)
    requests: int | None = 100
    duration_s: float | None = None
    rounds: int = 1
    warm_up: int | None = None


@dataclass(frozen=True)
class Round:
    """Requests of one model in a row.

    Args:
        model: index of the model.
        concurrency: number of clients.
        number: number of the round, from 0.
        seconds: seconds from the first request to the last answer.
        outcomes: all requests that ended.
    """

    model: int
    concurrency: int
    number: int
    seconds: float
    outcomes: Sequence[Completion | Failure]

    @property
    def completions(self) -> list[Completion]:
        """Requests that were answered."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Completion)]

    @property
    def failures(self) -> list[Failure]:
        """Requests that failed."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failure)]


@dataclass
class Measurement:
    """A run, and the rounds that it has made so far.

    Args:
        endpoint: endpoint under load.
        models: names of the models, in the order of the report. A name may occur twice, which shows the noise.
        question: what each request asks.
        load: amount of load.
        clock: clock in seconds.
        on_round: function that is called after each round.
    """

    endpoint: Endpoint
    models: Sequence[str]
    question: Question
    load: Load
    clock: Callable[[], float] = time.perf_counter
    on_round: Callable[[Round], object] = lambda _: None
    rounds: list[Round] = field(default_factory=list)


async def measure(run: Measurement) -> None:
    """Runs the load. `run.rounds` also has the part of a round that a cancellation cuts off.

    Raises:
        AnswerError: no request of a warm-up was answered.
        OSError: an image cannot be read.
    """
    sent = [0] * len(run.models)
    for concurrency in run.load.concurrency:
        async with Sender(run.endpoint, concurrency, run.clock) as sender:
            clients = _Clients(run, sender, concurrency, sent)
            for model in range(len(run.models)):
                await clients.warm_up(model)
            for number in range(run.load.rounds):
                # Each model is as often the first as the last, so that a drift of the machine favours none.
                models = range(len(run.models))
                for model in models if number % 2 == 0 else reversed(models):
                    await clients.run_round(model, number)


@dataclass
class _Tally:
    """Requests of a series that ended, and its length in seconds."""

    outcomes: list[Completion | Failure] = field(default_factory=list)
    seconds: float = 0.0


class _Clients:
    """Clients at one level of concurrency.

    Args:
        run: run that gets the rounds.
        sender: sender of their requests.
        concurrency: number of clients.
        sent: requests made so far, by model.
    """

    def __init__(self, run: Measurement, sender: Sender, concurrency: int, sent: list[int]) -> None:
        self._run, self._sender, self._concurrency, self._sent = run, sender, concurrency, sent

    async def warm_up(self, model: int) -> None:
        """Sends requests that are not counted.

        Raises:
            AnswerError: none was answered.
        """
        total = self._concurrency if self._run.load.warm_up is None else self._run.load.warm_up
        tally = _Tally()
        await self._send(model, total, None, tally)
        failures = [outcome for outcome in tally.outcomes if isinstance(outcome, Failure)]
        if failures and len(failures) == total:
            name, first = self._run.models[model], failures[0]
            raise AnswerError(
                f"{name} answered no request of the warm-up at {self._run.endpoint.shown_url}: {first.kind}:"
                f" {first.message}"
            )

    async def run_round(self, model: int, number: int) -> None:
        """One round, which is added to the run even if it is cut off."""
        tally, load = _Tally(), self._run.load
        try:
            await self._send(model, load.requests, load.duration_s, tally)
        finally:
            if tally.outcomes:
                done = Round(model, self._concurrency, number, tally.seconds, tally.outcomes)
                self._run.rounds.append(done)
                self._run.on_round(done)

    async def _send(self, model: int, total: int | None, duration_s: float | None, tally: _Tally) -> None:
        """Sends requests until their number or the time is reached, and waits for all answers.

        Args:
            model: index of the model.
            total: number of requests; None for no limit.
            duration_s: seconds in which requests start; None for no limit.
            tally: tally that also has what ended before a cancellation.
        """
        clock = self._run.clock
        bodies = BodyQueue(
            lambda number: self._run.question.body(self._run.models[model], number),
            first=self._sent[model],
            total=total,
            ahead=max(_BODIES_AHEAD, 2 * self._concurrency),
        )

        async def client() -> None:
            while duration_s is None or clock() - start < duration_s:
                body = await bodies.next()
                if body is None:
                    return
                self._sent[model] += 1
                tally.outcomes.append(await self._sender.send(body))

        try:
            await bodies.fill()
            start = clock()
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._concurrency):
                        group.create_task(client())
            except BaseExceptionGroup as errors:  # an image that cannot be read
                raise errors.exceptions[0] from errors
            finally:
                tally.seconds = clock() - start
        finally:
            bodies.close()
