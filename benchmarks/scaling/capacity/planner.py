"""The smallest deployment that keeps a latency goal at a rate, found by simulation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchmarks.scaling.capacity.profile import Profile
from benchmarks.scaling.capacity.simulation import SimulationOutcome, open_loop
from benchmarks.scaling.capacity.system import Redis, SimulatedDeployment
from benchmarks.scaling.capacity.workload import Workload, bursts, poisson

__all__ = ["REDIS", "CapacityPlan", "CapacityPlanner", "Goal", "Unreachable", "cost_per_million", "limits"]

REDIS: Final = "Redis, all together"
_STEP: Final = 0.04
_MOST_TRIES: Final = 100
_APART_S: Final = 1000.0
# Less than this part of the goal explains no refusal.
_SHORT: Final = 0.05
_LEVEL: Final = {"encoder queue": "encoders", "encoder": "encoders", "LLM queue": "llms", "LLM": "llms"}


class Unreachable(RuntimeError):
    """No number of replicas keeps the goal."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What the answers must keep: a percentile of their seconds, and the share of requests refused at most."""

    seconds: float
    percent: float = 95.0
    refused: float = 0.001

    def kept(self, outcome: SimulationOutcome) -> bool:
        """Whether a run did."""
        return outcome.percentile(self.percent) <= self.seconds and outcome.refused_share <= self.refused


@dataclass(frozen=True)
class CapacityPlan:
    """A deployment of several equal cells, and what it does.

    Attributes:
        rate: Requests a second, all cells together.
        cells: How many times `deployment` stands there.
        deployment: Of one cell. Where one Redis is too little for the rate it has none: caches are in the gateways.
        outcome: Of one cell, simulated.
        fails_at: How many times the rate it still keeps the goal, and no more.
        fails_first: What is then short.
    """

    rate: float
    cells: int
    deployment: SimulatedDeployment
    outcome: SimulationOutcome
    fails_at: float
    fails_first: str

    @property
    def encoders(self) -> int:
        """In all cells."""
        return self.cells * self.deployment.encoders

    @property
    def llms(self) -> int:
        """In all cells."""
        return self.cells * self.deployment.llms

    @property
    def gateways(self) -> int:
        """In all cells."""
        return self.cells * self.deployment.gateways


@dataclass(frozen=True)
class CapacityPlanner:
    """Plans for rates, each from that for the next smaller one.

    Attributes:
        profile: What things cost.
        workload: What is asked.
        goal: What to keep.
        base: A deployment whose replicas are counted anew; everything else in it stays.
        burst_factor: Of the arrivals, in a tenth of the time; 1: at random and no more.
        most_in_a_cell: Requests a second that are simulated together. A larger rate is that of several equal cells,
            which share nothing but Redis: that is larger than one system of all would need, as cells do not help out.
        window_s: Of the simulation; a third of it goes before as warm-up.
        seed: Of arrivals and questions, the same for all trials.
    """

    profile: Profile
    workload: Workload
    goal: Goal
    base: SimulatedDeployment
    burst_factor: float = 1.0
    most_in_a_cell: float = 100.0
    window_s: float = 15.0
    seed: int = 0

    def plans(self, rates: Sequence[float]) -> Iterator[CapacityPlan]:
        """One for each rate, in rising order.

        Raises:
            Unreachable: A request alone is too slow, or more of everything does not help.
        """
        alone = self._alone()
        longest = max(alone.seconds)
        if longest > self.goal.seconds:
            raise Unreachable(f"a request alone takes {longest:.2f} s, longer than the goal of {self.goal.seconds:g} s")
        found: SimulatedDeployment | None = None
        for rate in sorted(rates):
            cells = math.ceil(rate / self.most_in_a_cell)
            start = self._least(rate, cells)
            if found is not None and cells == 1:
                start = _at_least(start, found)
            found, outcome = self._grow(start, rate / cells, alone)
            yield CapacityPlan(rate, cells, found, outcome, *self._failure(found, rate / cells, alone))

    def _least(self, rate: float, cells: int) -> SimulatedDeployment:
        """One cell that could not keep up with its part of the rate if it had less, and its part of Redis."""
        most = limits(self.profile, self.base, self.workload)
        redis = self.base.redis
        if redis is not None:
            calls, bits = redis.calls_per_second / cells, redis.bits_per_second / cells
            redis = Redis(calls, bits) if rate < most[REDIS] else None
        return replace(
            self.base,
            encoders=math.ceil(rate / cells / min(most["encoder"], most["encoder CPU"])),
            llms=math.ceil(rate / cells / most["LLM"]),
            gateways=math.ceil(rate / cells / min(most["gateway CPU"], most["gateway link"])),
            redis=redis,
        )

    def run(self, deployment: SimulatedDeployment, rate: float) -> SimulationOutcome:
        """One cell under its load."""
        rng = np.random.default_rng(self.seed)
        arrivals = poisson(rate, rng) if self.burst_factor == 1 else bursts(rate, rng, factor=self.burst_factor)
        warm_up_s = self.window_s / 3
        return open_loop(
            self.profile,
            deployment,
            self.workload,
            arrivals,
            window_s=self.window_s,
            warm_up_s=warm_up_s,
            seed=self.seed,
        )

    def _grow(
        self, deployment: SimulatedDeployment, rate: float, alone: SimulationOutcome
    ) -> tuple[SimulatedDeployment, SimulationOutcome]:
        for _ in range(_MOST_TRIES):
            outcome = self.run(deployment, rate)
            if self.goal.kept(outcome):
                return deployment, outcome
            short = self._short(outcome, alone)
            if short == "Redis":
                deployment = replace(deployment, redis=None)
                continue
            name = _LEVEL.get(short, "gateways")
            count = getattr(deployment, name)
            deployment = replace(deployment, **{name: count + max(1, round(_STEP * count))})
        raise Unreachable(f"not within {_MOST_TRIES} trials at {rate:g} requests/s")

    def _short(self, outcome: SimulationOutcome, alone: SimulationOutcome) -> str:
        """Where answers spend most beyond what they would alone; else the place that refuses most."""
        more = {place: spent - alone.spent_s.get(place, 0.0) for place, spent in outcome.spent_s.items()}
        place = max(more, key=lambda name: more[name])
        if not outcome.refused:
            return place
        refusing = max(outcome.refused, key=lambda name: outcome.refused[name])
        # A stage's own queue speaks for itself; the places of a gateway fill up behind whatever is slow.
        quick = outcome.percentile(self.goal.percent) <= self.goal.seconds and refusing in _LEVEL
        return refusing if quick or more[place] < _SHORT * self.goal.seconds else place

    def _failure(self, deployment: SimulatedDeployment, rate: float, alone: SimulationOutcome) -> tuple[float, str]:
        """The last tenth more of the rate at which the goal is kept, and what is short beyond."""
        for tenths in range(1, 31):
            outcome = self.run(deployment, rate * (1 + tenths / 10))
            if not self.goal.kept(outcome):
                return 1 + (tenths - 1) / 10, self._short(outcome, alone)
        return 4.0, "nothing up to four times the rate"

    def _alone(self) -> SimulationOutcome:
        """One answer of each length, each with everything for itself."""
        one = replace(self.base, encoders=1, llms=1, gateways=1)
        workload = replace(self.workload, answer_hits=0.0, visual_token_hits=0.0)
        moments = [_APART_S * number for number in range(len(workload.answer_tokens))]
        return open_loop(self.profile, one, workload, moments, window_s=_APART_S * (len(moments) + 1))


def _at_least(one: SimulatedDeployment, other: SimulatedDeployment) -> SimulatedDeployment:
    return replace(
        one,
        encoders=max(one.encoders, other.encoders),
        llms=max(one.llms, other.llms),
        gateways=max(one.gateways, other.gateways),
    )


def limits(profile: Profile, deployment: SimulatedDeployment, workload: Workload) -> dict[str, float]:
    """Requests a second that one replica of each kind can do at the most, and Redis altogether; caches counted in."""
    pictures, answer = workload.pictures, workload.mean_answer_tokens
    generated = 1 - workload.answer_hits
    encoded = generated - workload.visual_token_hits
    rules, rows = deployment.encoder_rules, deployment.llm_rules.max_batch_size
    questions = max(rules.max_batch_size // pictures, 1)
    prepare = profile.prepare_per_picture * pictures
    encoder_cpu = 1 / max(
        prepare / rules.workers(deployment.encoder_cores), (prepare + profile.encoder_call) / deployment.encoder_cores
    )
    prompt = profile.prompt_tokens(pictures)
    step = profile.step_s(rows, round(prompt + answer / 2))
    llm = (profile.prefill_s(rows, prompt) + (answer - 1) * step) / rows  # the prefill gives the first token
    token_bits = 8 * pictures * profile.visual_tokens * profile.token_bytes
    gateway = profile.gateway_request + profile.gateway_per_picture * (pictures - 1)
    most = {
        "encoder": questions / profile.encode.seconds(questions, questions * pictures) / max(encoded, 1e-9),
        "encoder CPU": encoder_cpu / max(encoded, 1e-9),
        "LLM": 1 / llm / max(generated, 1e-9),
        "gateway CPU": 1 / (gateway + profile.gateway_per_token * answer * generated),
        "gateway link": deployment.link_bits_per_second / token_bits / max(generated, 1e-9),
    }
    if deployment.redis is not None:
        seconds = 3 / deployment.redis.calls_per_second
        seconds += encoded * (3 / deployment.redis.calls_per_second + token_bits / deployment.redis.bits_per_second)
        most[REDIS] = 1 / seconds
    return most


def cost_per_million(plan: CapacityPlan, price_per_gpu_hour: float) -> float:
    """Price of the GPUs of both stages while they give a million answers."""
    return (plan.encoders + plan.llms) * price_per_gpu_hour / 3600 / plan.rate * 1e6
