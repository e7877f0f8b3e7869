"""An LLM replica: the rules of `llm_service/engine/transformers.py` in simulated time."""

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
class _Sequence:
    length: int  # positions of the prompt, and of the answer so far
    remaining: int  # tokens that are still to be decoded
    first: simpy.Event
    done: simpy.Event


class LLMReplica:
    """One pod of the LLM service.

    Args:
        env: The simulation.
        profile: Costs of the stages.
        rules: Settings of the service.
        cores: CPU cores of the pod.
    """

    def __init__(self, env: simpy.Environment, profile: Profile, rules: LLMRules, cores: float) -> None:
        self._env = env
        self._profile = profile
        self._rules = rules
        self.cpu = Processor(env, cores)
        self.device = Device(env, self.cpu if profile.shares_cores else None)
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._arrival = env.event()
        self.most_sequences = self.regroups = 0
        env.process(self._serve())

    def generate(self, prompt_tokens: int, answer_tokens: int, first: simpy.Event) -> Generator[simpy.Event, Any, None]:
        """One call; `first` succeeds with the first token.

        Raises:
            Refused: The queue is full.
        """
        yield self.cpu.run(self._profile.llm_call)
        if len(self._waiting) >= self._rules.max_queue_size:
            raise Refused("LLM queue")
        sequence = _Sequence(prompt_tokens, answer_tokens, first, self._env.event())
        self._waiting.append(sequence)
        arrival, self._arrival = self._arrival, self._env.event()
        arrival.succeed()
        yield sequence.done

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        rules = self._rules
        while True:
            if not self._running:
                while not self._waiting:
                    yield self._arrival
                over = self._env.timeout(rules.max_batch_delay_s)
                while len(self._waiting) < rules.max_batch_size and not over.processed:
                    yield self._arrival | over
            free = rules.max_batch_size - len(self._running)
            new_sequences = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            if new_sequences:
                yield self.device.run(self._profile.prefill_s(len(new_sequences), _longest(new_sequences)))
                joined, self._running = bool(self._running), self._running + new_sequences
                self.most_sequences = max(self.most_sequences, len(self._running))
                if joined:
                    yield self._regroup()
                yield from self._emit_tokens(new_sequences)
            if self._running:
                yield self.device.run(self._profile.step_s(len(self._running), _longest(self._running)))
                yield from self._emit_tokens(self._running)

    def _regroup(self) -> simpy.Event:
        self.regroups += 1
        return self.device.run(self._profile.regroup.seconds(len(self._running), _longest(self._running)))

    def _emit_tokens(self, sequences: list[_Sequence]) -> Generator[simpy.Event, Any, None]:
        """Gives each sequence a token; those with their last token are finished."""
        finished = False
        for sequence in sequences:
            sequence.length += 1
            sequence.remaining -= 1
            if not sequence.first.triggered:
                sequence.first.succeed()
            if sequence.remaining == 0:
                sequence.done.succeed()
                finished = True
        if finished:
            self._running = [sequence for sequence in self._running if sequence.remaining]
            if self._running:
                yield self._regroup()


def _longest(sequences: list[_Sequence]) -> int:
    return max(sequence.length for sequence in sequences)
