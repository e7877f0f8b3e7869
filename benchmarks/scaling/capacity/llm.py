"""An LLM replica: the rules of `llm_service/engines/transformers.py` in simulated time."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from benchmarks.scaling.capacity.device import Device
from benchmarks.scaling.capacity.processor import Processor
from benchmarks.scaling.capacity.profile import Profile
from benchmarks.scaling.capacity.refusal import Refused

__all__ = ["LLMReplica", "LLMRules"]


@dataclass(frozen=True, slots=True)
class LLMRules:
    """Settings of the LLM service; see `llm_service/settings.py`."""

    max_batch_size: int = 8
    max_batch_delay_s: float = 0.002
    max_queue_size: int = 64


@dataclass(eq=False, slots=True)
class _Row:
    length: int  # positions, the prompt's and the answer's so far
    left: int  # tokens still to come
    first: simpy.Event
    done: simpy.Event


class LLMReplica:
    """One pod.

    Args:
        env: The simulation.
        profile: What things cost.
        rules: The service's settings.
        cores: CPU of the pod.
    """

    def __init__(self, env: simpy.Environment, profile: Profile, rules: LLMRules, cores: float) -> None:
        self._env = env
        self._profile = profile
        self._rules = rules
        self.cpu = Processor(env, cores)
        self.device = Device(env, self.cpu if profile.shares_cores else None)
        self._waiting: deque[_Row] = deque()
        self._running: list[_Row] = []
        self._arrival = env.event()
        self.most_rows = self.regroups = 0
        env.process(self._serve())

    def generate(self, prompt_tokens: int, answer_tokens: int, first: simpy.Event) -> Generator[simpy.Event, Any, None]:
        """One call; `first` happens with the first token.

        Raises:
            Refused: Too many wait already.
        """
        yield self.cpu.run(self._profile.llm_call)
        if len(self._waiting) >= self._rules.max_queue_size:
            raise Refused("LLM queue")
        row = _Row(prompt_tokens, answer_tokens, first, self._env.event())
        self._waiting.append(row)
        arrival, self._arrival = self._arrival, self._env.event()
        arrival.succeed()
        yield row.done

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        rules = self._rules
        while True:
            if not self._running:
                while not self._waiting:
                    yield self._arrival
                over = self._env.timeout(rules.max_batch_delay_s)
                while len(self._waiting) < rules.max_batch_size and not over.processed:
                    yield self._arrival | over
            room = rules.max_batch_size - len(self._running)
            newcomers = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
            if newcomers:
                yield self.device.run(self._profile.prefill_s(len(newcomers), _longest(newcomers)))
                joined, self._running = bool(self._running), self._running + newcomers
                self.most_rows = max(self.most_rows, len(self._running))
                if joined:
                    yield self._regroup()
                yield from self._hand_out(newcomers)
            if self._running:
                yield self.device.run(self._profile.step_s(len(self._running), _longest(self._running)))
                yield from self._hand_out(self._running)

    def _regroup(self) -> simpy.Event:
        self.regroups += 1
        return self.device.run(self._profile.regroup.seconds(len(self._running), _longest(self._running)))

    def _hand_out(self, rows: list[_Row]) -> Generator[simpy.Event, Any, None]:
        """Gives each row a token; those that have their last leave."""
        ended = False
        for row in rows:
            row.length += 1
            row.left -= 1
            if not row.first.triggered:
                row.first.succeed()
            if row.left == 0:
                row.done.succeed()
                ended = True
        if ended:
            self._running = [row for row in self._running if row.left]
            if self._running:
                yield self._regroup()


def _longest(rows: list[_Row]) -> int:
    return max(row.length for row in rows)
