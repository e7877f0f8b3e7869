"""Simulation of a load on a deployment."""

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
    """Result of a simulated load in the measured window.

    Attributes:
        window_s: Length of the window.
        arrived: Number of requests that arrived in the window.
        seconds: Latency in seconds of each answer that ended in the window.
        refused: Number of requests refused in the window, by the queue that was full.
        in_system: Number of requests in progress, mean over the window.
        spent_s: Seconds of an answer in each stage, including queue time, mean over the answers of the whole run.
        busy: Share of the window in which a resource was in use, mean over its replicas.
        most_sequences: Largest number of sequences that one LLM replica ran at once.
    """

    window_s: float
    arrived: int
    seconds: tuple[float, ...]
    refused: dict[str, int]
    in_system: float
    spent_s: dict[str, float]
    busy: dict[str, float]
    most_sequences: int

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.window_s

    @property
    def refused_share(self) -> float:
        """Share of the requests that were refused."""
        return sum(self.refused.values()) / max(self.arrived, 1)

    def percentile(self, percent: float) -> float:
        """A percentile of the latency in seconds; infinite if no answer ended."""
        return float(np.percentile(self.seconds, percent)) if self.seconds else float("inf")


class _Run:
    """A system, its load, and the measurements in the window."""

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
        """One request; returns whether it was answered."""
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
        """Runs the warm-up and the window, and returns the result of the window."""
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
            spent_s={stage: spent / answered for stage, spent in self.system.spent_s.items()},
            busy={name: (after - busy[name]) / window_s for name, after in self._busy_s().items()},
            most_sequences=max((llm.most_sequences for llm in self.system.llms), default=0),
        )

    def _busy_s(self) -> dict[str, float]:
        system, gateways = self.system, self.system.gateways
        redis = {} if system.redis is None else {"Redis": system.redis.busy_s()}
        return redis | {
            "encoder": _mean(replica.device.busy_s() for replica in system.encoders),
            "encoder CPU": _mean(replica.cpu.busy_s() / replica.cpu.cores for replica in system.encoders),
            "LLM": _mean(replica.device.busy_s() for replica in system.llms),
            "gateway CPU": _mean(gateway.cpu.busy_s() for gateway in gateways),
            "link to the encoders": _mean(gateway.to_encoders.busy_s() for gateway in gateways),
            "link from the encoders": _mean(gateway.from_encoders.busy_s() for gateway in gateways),
            "link to the LLM services": _mean(gateway.to_llms.busy_s() for gateway in gateways),
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
    """The result of requests that arrive at given times, independent of answers."""
    run = _Run(profile, deployment, workload.questions(np.random.default_rng(seed)))

    def arrive() -> Generator[simpy.Event, Any, None]:
        for arrival in arrivals:
            yield run.env.timeout(arrival - run.env.now)
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
    """The result of `clients` that send the next request after each answer, or `retry_s` seconds after a refusal."""
    run = _Run(profile, deployment, workload.questions(np.random.default_rng(seed)))

    def client() -> Generator[simpy.Event, Any, None]:
        for _ in itertools.count():
            if not (yield from run.ask()):
                yield run.env.timeout(retry_s)

    for _ in range(clients):
        run.env.process(client())
    return run.measure(warm_up_s, window_s)
