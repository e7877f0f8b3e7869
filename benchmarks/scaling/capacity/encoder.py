"""An encoder replica: the rules of `encoder_service/engine/batching.py` in simulated time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from benchmarks.scaling.capacity.device import Device
from benchmarks.scaling.capacity.processor import Processor
from benchmarks.scaling.capacity.profile import Profile
from benchmarks.scaling.capacity.refusal import Refused

__all__ = ["EncoderReplica", "EncoderRules"]


@dataclass(frozen=True, slots=True)
class EncoderRules:
    """Settings of the encoder service; see `encoder_service/settings.py`."""

    max_batch_size: int = 8
    max_batch_delay_s: float = 0.005
    max_queue_size: int = 64
    decode_workers: int = 0

    def workers(self, cores: float) -> int:
        """Decoding processes of a pod with these cores."""
        return self.decode_workers or max(1, math.ceil(cores))


@dataclass(eq=False, slots=True)
class _Entry:
    images: int
    queued_at: float
    done: simpy.Event


class EncoderReplica:
    """One pod of the encoder service.

    Args:
        env: The simulation.
        profile: Costs of the stages.
        rules: Settings of the service.
        cores: CPU cores of the pod.
    """

    def __init__(self, env: simpy.Environment, profile: Profile, rules: EncoderRules, cores: float) -> None:
        self._env = env
        self._profile = profile
        self._rules = rules
        self.cpu = Processor(env, cores)
        self.device = Device(env, self.cpu if profile.shares_cores else None)
        self._workers = simpy.Resource(env, rules.workers(cores))
        self._queue: deque[_Entry] = deque()
        self._arrival = env.event()
        self._num_waiting = 0
        self.batches: list[list[int]] = []  # images of each question, for each batch
        env.process(self._serve())

    def encode(self, images: int) -> Generator[simpy.Event, Any, None]:
        """One call for a question with some images.

        Raises:
            Refused: The queue is full.
        """
        if self._num_waiting >= self._rules.max_queue_size:
            raise Refused("encoder queue")
        self._num_waiting += 1
        yield self.cpu.run(self._profile.encoder_call / 2)
        yield self._env.all_of([self._env.process(self._decode()) for _ in range(images)])
        entry = _Entry(images, self._env.now, self._env.event())
        self._queue.append(entry)
        self._signal()
        yield entry.done
        yield self.cpu.run(self._profile.encoder_call / 2)

    def _decode(self) -> Generator[simpy.Event, Any, None]:
        """One image, in a worker process."""
        with self._workers.request() as worker:
            yield worker
            yield self.cpu.run(self._profile.prepare_per_image)

    def _signal(self) -> None:
        arrival, self._arrival = self._arrival, self._env.event()
        arrival.succeed()

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        while True:
            while not self._queue:
                yield self._arrival
            due = self._queue[0].queued_at + self._rules.max_batch_delay_s
            over = self._env.timeout(max(due - self._env.now, 0.0))
            while self._env.now < due and self._request_is_being_prepared():
                yield self._arrival | over
            batch = self._take()
            images = [entry.images for entry in batch]
            self.batches.append(images)
            yield self.device.run(self._profile.encode.seconds(len(batch), sum(images)))
            for entry in batch:
                entry.done.succeed()

    def _request_is_being_prepared(self) -> bool:
        has_room = sum(entry.images for entry in self._queue) < self._rules.max_batch_size
        return has_room and self._num_waiting > len(self._queue)

    def _take(self) -> list[_Entry]:
        batch: list[_Entry] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].images <= self._rules.max_batch_size):
            entry = self._queue.popleft()
            self._num_waiting -= 1
            size += entry.images
            batch.append(entry)
        return batch
