"""Deployments that meet a latency goal at a rate: in a simulation, the bottleneck gets replicas until they do."""

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
# Replicas that a trial adds to the bottleneck, as a share of those that it has.
_STEP: Final = 0.04
_MAX_TRIALS: Final = 100
# Seconds between requests that do not affect each other.
_SPACING_S: Final = 1000.0
# A stage is the cause of refusals only if its extra time is at least this share of the goal.
_MIN_EXTRA_SHARE: Final = 0.05
_REPLICAS_OF: Final = {"encoder queue": "encoders", "encoder": "encoders", "LLM queue": "llms", "LLM": "llms"}


class Unreachable(RuntimeError):
    """No number of replicas meets the goal."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Goal of a plan: the largest latency in seconds at a percentile, and the largest share of refused requests."""

    seconds: float
    percent: float = 95.0
    refused: float = 0.001

    def kept(self, outcome: SimulationOutcome) -> bool:
        """Whether a run meets the goal."""
        return outcome.percentile(self.percent) <= self.seconds and outcome.refused_share <= self.refused


@dataclass(frozen=True)
class CapacityPlan:
    """A deployment of equal cells, and its simulated performance.

    Attributes:
        rate: Requests a second of all cells together.
        cells: Number of cells.
        deployment: Deployment of one cell. If one Redis cannot serve the rate, caches are in the gateways.
        outcome: Simulated result of one cell.
        fails_at: Largest multiple of the rate at which a cell still meets the goal.
        fails_first: Bottleneck above that rate.
    """

    rate: float
    cells: int
    deployment: SimulatedDeployment
    outcome: SimulationOutcome
    fails_at: float
    fails_first: str

    @property
    def encoders(self) -> int:
        """Encoder services in all cells."""
        return self.cells * self.deployment.encoders

    @property
    def llms(self) -> int:
        """LLM services in all cells."""
        return self.cells * self.deployment.llms

    @property
    def gateways(self) -> int:
        """Gateways in all cells."""
        return self.cells * self.deployment.gateways


@dataclass(frozen=True)
class CapacityPlanner:
    """Plans for rates, each of which starts from the plan for the next smaller rate.

    Attributes:
        profile: Costs of the stages.
        workload: Distribution of the questions.
        goal: Goal that a plan must meet.
        base: Deployment whose settings a plan keeps; its numbers of replicas are replaced.
        burst_factor: Ratio of the rate in bursts, which take a tenth of the time, to the mean rate; 1: no bursts.
        most_in_a_cell: Largest rate of one cell in requests a second. A larger rate is split over equal cells, which
            share only Redis. Cells need more replicas than one system would, as they do not share replicas.
        window_s: Simulated seconds that a trial measures, after a warm-up of a third of them.
        seed: Seed of arrivals and questions, the same for all trials.
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
        """A plan for each rate, in rising order.

        Raises:
            Unreachable: A single request is too slow, or more replicas do not help.
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
        """The smallest cell with the capacity for its share of the rate, and with its share of Redis."""
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
        """The simulated result of one cell at its rate."""
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
        for _ in range(_MAX_TRIALS):
            outcome = self.run(deployment, rate)
            if self.goal.kept(outcome):
                return deployment, outcome
            bottleneck = self._bottleneck(outcome, alone)
            if bottleneck == "Redis":
                deployment = replace(deployment, redis=None)
                continue
            name = _REPLICAS_OF.get(bottleneck, "gateways")
            count = getattr(deployment, name)
            deployment = replace(deployment, **{name: count + max(1, round(_STEP * count))})
        raise Unreachable(f"not within {_MAX_TRIALS} trials at {rate:g} requests/s")

    def _bottleneck(self, outcome: SimulationOutcome, alone: SimulationOutcome) -> str:
        """The stage with the most time beyond that of a single request, or the queue with the most refusals."""
        extra_s = {stage: spent - alone.spent_s.get(stage, 0.0) for stage, spent in outcome.spent_s.items()}
        slowest = max(extra_s, key=lambda stage: extra_s[stage])
        if not outcome.refused:
            return slowest
        refusing = max(outcome.refused, key=lambda name: outcome.refused[name])
        # The full queue of a stage shows the bottleneck. The limit of a gateway does not: any slow stage fills it.
        is_stage = outcome.percentile(self.goal.percent) <= self.goal.seconds and refusing in _REPLICAS_OF
        return refusing if is_stage or extra_s[slowest] < _MIN_EXTRA_SHARE * self.goal.seconds else slowest

    def _failure(self, deployment: SimulatedDeployment, rate: float, alone: SimulationOutcome) -> tuple[float, str]:
        """The largest multiple of the rate, in tenths, that meets the goal, and the bottleneck above it."""
        for tenths in range(1, 31):
            outcome = self.run(deployment, rate * (1 + tenths / 10))
            if not self.goal.kept(outcome):
                return 1 + (tenths - 1) / 10, self._bottleneck(outcome, alone)
        return 4.0, "nothing up to four times the rate"

    def _alone(self) -> SimulationOutcome:
        """The result of single requests on an idle system, one for each answer length."""
        single = replace(self.base, encoders=1, llms=1, gateways=1)
        workload = replace(self.workload, answer_hits=0.0, visual_token_hits=0.0)
        arrivals = [_SPACING_S * number for number in range(len(workload.answer_tokens))]
        return open_loop(self.profile, single, workload, arrivals, window_s=_SPACING_S * (len(arrivals) + 1))


def _at_least(deployment: SimulatedDeployment, smaller: SimulatedDeployment) -> SimulatedDeployment:
    return replace(
        deployment,
        encoders=max(deployment.encoders, smaller.encoders),
        llms=max(deployment.llms, smaller.llms),
        gateways=max(deployment.gateways, smaller.gateways),
    )


def limits(profile: Profile, deployment: SimulatedDeployment, workload: Workload) -> dict[str, float]:
    """Capacity of one replica of each kind, and of Redis as a whole, in requests a second, with cache hits."""
    images, answer = workload.images, workload.mean_answer_tokens
    generated = 1 - workload.answer_hits
    encoded = generated - workload.visual_token_hits
    rules, sequences = deployment.encoder_rules, deployment.llm_rules.max_batch_size
    questions = max(rules.max_batch_size // images, 1)
    prepare = profile.prepare_per_image * images
    encoder_cpu = 1 / max(
        prepare / rules.workers(deployment.encoder_cores), (prepare + profile.encoder_call) / deployment.encoder_cores
    )
    prompt = profile.prompt_tokens(images)
    step = profile.step_s(sequences, round(prompt + answer / 2))
    llm = (profile.prefill_s(sequences, prompt) + (answer - 1) * step) / sequences  # the prefill gives the first token
    token_bits = 8 * images * profile.visual_tokens * profile.token_bytes
    gateway = profile.gateway_request + profile.gateway_per_image * (images - 1)
    most = {
        "encoder": questions / profile.encode.seconds(questions, questions * images) / max(encoded, 1e-9),
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
    """Price of the GPUs of both stages for a million answers."""
    return (plan.encoders + plan.llms) * price_per_gpu_hour / 3600 / plan.rate * 1e6
