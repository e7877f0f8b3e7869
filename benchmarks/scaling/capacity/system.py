"""Gateways, links, caches and replicas in simulated time, put together as in `gateway/core/pipeline.py`."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import simpy

from benchmarks.scaling.capacity.encoder import EncoderReplica, EncoderRules
from benchmarks.scaling.capacity.link import Link
from benchmarks.scaling.capacity.llm import LLMReplica, LLMRules
from benchmarks.scaling.capacity.processor import Processor
from benchmarks.scaling.capacity.profile import Profile
from benchmarks.scaling.capacity.refusal import Refused
from benchmarks.scaling.capacity.workload import SimulatedQuestion

__all__ = ["Redis", "SimulatedDeployment", "SimulatedSystem"]

# Calls of one answer to Redis. Before: get the answer, take its lock, get the visual tokens. After: set the visual
# tokens, set the answer, release the lock.
_REDIS_BEFORE: Final = 3
_REDIS_AFTER: Final = 3


@dataclass(frozen=True, slots=True)
class Redis:
    """One cache server for all gateways.

    Attributes:
        calls_per_second: Calls that it can answer.
        bits_per_second: Bandwidth of its network.
    """

    calls_per_second: float
    bits_per_second: float


@dataclass(frozen=True)
class SimulatedDeployment:
    """Replicas and their limits.

    Attributes:
        encoders: Number of encoder services.
        llms: Number of LLM services.
        gateways: Number of gateways.
        encoder_cores: CPU cores of each pod of the encoder service.
        llm_cores: CPU cores of each pod of the LLM service.
        encoder_rules: Settings of the encoder services.
        llm_rules: Settings of the LLM services.
        max_concurrent_requests: Answers in progress in a gateway at most.
        link_bits_per_second: Bandwidth of each gateway's link to the encoders, and of its link to the LLM services.
        link_delay_s: Propagation delay of these links, one way.
        redis: Cache server; None: caches inside the gateways.
    """

    encoders: int
    llms: int
    gateways: int = 1
    encoder_cores: float = 1.0
    llm_cores: float = 1.0
    encoder_rules: EncoderRules = field(default_factory=EncoderRules)
    llm_rules: LLMRules = field(default_factory=LLMRules)
    max_concurrent_requests: int = 80
    link_bits_per_second: float = 10e9
    link_delay_s: float = 0.0001
    redis: Redis | None = None


class _Gateway:
    """One gateway: one core, links to each stage, and replicas that it uses in turns."""

    def __init__(self, env: simpy.Environment, system: SimulatedSystem) -> None:
        deployment = system.deployment
        bits, delay = deployment.link_bits_per_second, deployment.link_delay_s
        self.cpu = Processor(env, 1.0)
        self.to_encoders, self.from_encoders, self.to_llms = (Link(env, bits, delay) for _ in range(3))
        self.encoders = itertools.cycle(system.encoders)
        self.llms = itertools.cycle(system.llms)
        self.in_progress = 0


class SimulatedSystem:
    """All gateways, links, caches and replicas of a deployment.

    Args:
        env: The simulation.
        profile: Costs of the stages.
        deployment: Replicas and their limits.
    """

    def __init__(self, env: simpy.Environment, profile: Profile, deployment: SimulatedDeployment) -> None:
        self._env = env
        self._profile = profile
        self.deployment = deployment
        self.encoders = [
            EncoderReplica(env, profile, deployment.encoder_rules, deployment.encoder_cores)
            for _ in range(deployment.encoders)
        ]
        self.llms = [
            LLMReplica(env, profile, deployment.llm_rules, deployment.llm_cores) for _ in range(deployment.llms)
        ]
        redis = deployment.redis
        self.redis = None if redis is None else Link(env, redis.bits_per_second)
        self.gateways = [_Gateway(env, self) for _ in range(deployment.gateways)]
        self._turns: Iterator[_Gateway] = itertools.cycle(self.gateways)
        self.refused: Counter[str] = Counter()
        self.spent_s: defaultdict[str, float] = defaultdict(float)
        self.finished = self.started = 0

    def answer(self, question: SimulatedQuestion) -> Generator[simpy.Event, Any, bool]:
        """One request from its arrival to its end; returns whether it was answered."""
        gateway = next(self._turns)
        self.started += 1
        try:
            if gateway.in_progress >= self.deployment.max_concurrent_requests:
                raise Refused("gateway limit")
            gateway.in_progress += 1
            try:
                yield from self._answer(gateway, question)
            finally:
                gateway.in_progress -= 1
        except Refused as refused:
            self.refused[refused.queue] += 1
            return False
        self.finished += 1
        return True

    def _answer(self, gateway: _Gateway, question: SimulatedQuestion) -> Generator[simpy.Event, Any, None]:
        profile = self._profile
        more_images = profile.gateway_per_image * (question.images - 1)
        yield from self._work(gateway, (profile.gateway_request + more_images) / 2)
        yield from self._ask_redis(_REDIS_BEFORE, 0)
        if question.cached != "answer":
            if question.cached != "visual_tokens":
                yield from self._encode(gateway, question)
            yield from self._generate(gateway, question)
        yield from self._work(gateway, (profile.gateway_request + more_images) / 2)

    def _encode(self, gateway: _Gateway, question: SimulatedQuestion) -> Generator[simpy.Event, Any, None]:
        yield from self._send(
            "link to the encoders", gateway.to_encoders, question.images * self._profile.request_bytes
        )
        start = self._env.now
        yield from next(gateway.encoders).encode(question.images)
        self.spent_s["encoder"] += self._env.now - start
        yield from self._send("link from the encoders", gateway.from_encoders, self._token_bytes(question))
        yield from self._ask_redis(_REDIS_AFTER, self._token_bytes(question))

    def _generate(self, gateway: _Gateway, question: SimulatedQuestion) -> Generator[simpy.Event, Any, None]:
        yield from self._send("link to the LLM services", gateway.to_llms, self._token_bytes(question))
        first = self._env.event()
        forwarding = self._env.process(self._forward_text(gateway, question.answer_tokens, first))
        prompt = self._profile.prompt_tokens(question.images)
        start = self._env.now
        try:
            yield from next(gateway.llms).generate(prompt, question.answer_tokens, first)
        except Refused:
            first.succeed(False)
            raise
        self.spent_s["LLM"] += self._env.now - start
        yield self._env.timeout(self.deployment.link_delay_s)
        yield forwarding

    def _forward_text(self, gateway: _Gateway, tokens: int, first: simpy.Event) -> Generator[simpy.Event, Any, None]:
        """The gateway's work on the text of an answer, from its first token on."""
        answered = yield first
        if answered is not False:
            yield from self._work(gateway, self._profile.gateway_per_token * tokens)

    def _token_bytes(self, question: SimulatedQuestion) -> float:
        return question.images * self._profile.visual_tokens * self._profile.token_bytes

    def _work(self, gateway: _Gateway, seconds: float) -> Generator[simpy.Event, Any, None]:
        start = self._env.now
        yield gateway.cpu.run(seconds)
        self.spent_s["gateway CPU"] += self._env.now - start

    def _send(self, name: str, link: Link, size: float) -> Generator[simpy.Event, Any, None]:
        start = self._env.now
        yield link.send(size)
        self.spent_s[name] += self._env.now - start

    def _ask_redis(self, calls: int, size: float) -> Generator[simpy.Event, Any, None]:
        if self.redis is not None and self.deployment.redis is not None:
            start = self._env.now
            yield self.redis.send(size, occupied_s=calls / self.deployment.redis.calls_per_second)
            self.spent_s["Redis"] += self._env.now - start
