"""Runs a load through a system in simulated time, and says what came of it."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from benchmarks.scaling.capacity.profile import Profile
from benchmarks.scaling.capacity.system import SimulatedDeployment, SimulatedSystem
from benchmarks.scaling.capacity.workload import SimulatedQuestion, Workload

__all__ = ["SimulationOutcome", "closed_loop", "open_loop"]


@dataclass(frozen=True)
class SimulationOutcome:
    """What came of a load, in the window that is measured.

    Attributes:
        window_s: Its length.
        arrived: Requests in it.
        seconds: Of each answer that ended in it, from arrival to end.
        refused: Requests refused in it, by the place that was full.
        in_system: Requests in progress, mean over the window.
        spent_s: Seconds of an answer by place, what is waited for included, mean over the answers of the whole run.
        busy: Share of the window that something was in use, mean over its replicas.
        most_rows: That one LLM replica had at once.
    """

    window_s: float
    arrived: int
    seconds: tuple[float, ...]
    refused: dict[str, int]
    in_system: float
    spent_s: dict[str, float]
    busy: dict[str, float]
    most_rows: int

    @property
    def per_second(self) -> float:
        """Answers."""
        return len(self.seconds) / self.window_s

    @property
    def refused_share(self) -> float:
        """Of the requests that arrived."""
        return sum(self.refused.values()) / max(self.arrived, 1)

    def percentile(self, percent: float) -> float:
        """Of the seconds of an answer; infinite where none ended."""
        return float(np.percentile(self.seconds, percent)) if self.seconds else float("inf")


class _Run:
    """A system, its load, and what is noted in the window."""

    def __init__(
        self, profile: Profile, deployment: SimulatedDeployment, questions: Iterator[SimulatedQuestion]
    ) -> None:
        self.env = simpy.Environment()
        self.system = SimulatedSystem(self.env, profile, deployment)
        self._questions = questions
        self.seconds: list[float] = []
        self.arrived = 0
        self._in_system = 0
        self._area = self._since = 0.0
        self._measuring = False

    def ask(self) -> Generator[simpy.Event, Any, bool]:
        """One request."""
        start = self.env.now
        self.arrived += 1
        self._count(+1)
        answered = yield from self.system.answer(next(self._questions))
        self._count(-1)
        if answered and self._measuring:
            self.seconds.append(self.env.now - start)
        return answered

    def _count(self, change: int) -> None:
        self._area += self._in_system * (self.env.now - self._since)
        self._since = self.env.now
        self._in_system += change

    def measure(self, warm_up_s: float, window_s: float) -> SimulationOutcome:
        """Runs through the warm-up and the window."""
        if warm_up_s:
            self.env.run(warm_up_s)
        self._count(0)
        self._measuring, area, arrived = True, self._area, self.arrived
        refused, busy = self.system.refused.copy(), self._busy_s()
        self.env.run(warm_up_s + window_s)
        self._count(0)
        answered = max(self.system.finished, 1)
        return SimulationOutcome(
            window_s=window_s,
            arrived=self.arrived - arrived,
            seconds=tuple(self.seconds),
            refused=dict(self.system.refused - refused),
            in_system=(self._area - area) / window_s,
            spent_s={place: spent / answered for place, spent in self.system.spent_s.items()},
            busy={name: (after - busy[name]) / window_s for name, after in self._busy_s().items()},
            most_rows=max((llm.most_rows for llm in self.system.llms), default=0),
        )

    def _busy_s(self) -> dict[str, float]:
        system, gateways = self.system, self.system.gateways
        redis = {} if system.redis is None else {"Redis": system.redis.busy_s()}
        return redis | {
            "encoder": _mean(one.device.busy_s() for one in system.encoders),
            "encoder CPU": _mean(one.cpu.busy_s() / one.cpu.cores for one in system.encoders),
            "LLM": _mean(one.device.busy_s() for one in system.llms),
            "gateway CPU": _mean(one.cpu.busy_s() for one in gateways),
            "link to the encoders": _mean(one.to_encoders.busy_s() for one in gateways),
            "link from the encoders": _mean(one.from_encoders.busy_s() for one in gateways),
            "link to the LLM services": _mean(one.to_llms.busy_s() for one in gateways),
        }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def open_loop(
    profile: Profile,
    deployment: SimulatedDeployment,
    workload: Workload,
    arrivals: Iterable[float],
    *,
    window_s: float,
    warm_up_s: float = 0.0,
    seed: int = 0,
) -> SimulationOutcome:
    """Requests at given moments, whatever became of the others."""
    run = _Run(profile, deployment, workload.questions(np.random.default_rng(seed)))

    def arrive() -> Generator[simpy.Event, Any, None]:
        for moment in arrivals:
            yield run.env.timeout(moment - run.env.now)
            run.env.process(run.ask())

    run.env.process(arrive())
    return run.measure(warm_up_s, window_s)


def closed_loop(
    profile: Profile,
    deployment: SimulatedDeployment,
    workload: Workload,
    *,
    clients: int,
    window_s: float,
    warm_up_s: float = 0.0,
    retry_s: float = 1.0,
    seed: int = 0,
) -> SimulationOutcome:
    """So many clients, each of which asks again once it has its answer, or `retry_s` after it was refused."""
    run = _Run(profile, deployment, workload.questions(np.random.default_rng(seed)))

    def client() -> Generator[simpy.Event, Any, None]:
        for _ in itertools.count():
            if not (yield from run.ask()):
                yield run.env.timeout(retry_s)

    for _ in range(clients):
        run.env.process(client())
    return run.measure(warm_up_s, window_s)
