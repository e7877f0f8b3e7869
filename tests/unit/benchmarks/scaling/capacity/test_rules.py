"""The simulated services against the rules of the real ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scaling.capacity.encoder import EncoderReplica, EncoderRules
from benchmarks.scaling.capacity.llm import LLMReplica, LLMRules
from benchmarks.scaling.capacity.profile import Decode, Encode, Prefill, Regroup
from benchmarks.scaling.capacity.refusal import Refused
from benchmarks.scaling.capacity.system import SimulatedDeployment
from encoder_service.engine.batching import Batcher
from encoder_service.settings import EncoderSettings
from fovea.errors import Overloaded
from gateway.settings import GatewaySettings
from llm_service.settings import LLMSettings
from tests.unit.benchmarks.scaling.capacity.profiles import costs


@dataclass(frozen=True)
class Job:
    size: int


class Held:
    """Batch executor that returns the sizes of a batch once its gate is open."""

    is_backlogged = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    async def prepare(self, request: int) -> tuple[Job, float]:
        return Job(request), 0.0

    def size(self, job: Job) -> int:
        return job.size

    def run(self, batch: Sequence[Job]) -> list[int]:
        self.batches.append([job.size for job in batch])
        self.entered.set()
        assert self.gate.wait(60)
        return [job.size for job in batch]


async def real_batches(sizes: list[int], max_batch_size: int, max_queue_size: int) -> tuple[list[list[int]], int]:
    """Batches of the real batcher when all other requests arrive during the first; and the number of refusals."""
    held = Held()
    batcher: Batcher[int, Job, int] = Batcher(
        held, max_batch_size=max_batch_size, max_batch_delay_s=0, max_queue_size=max_queue_size
    )
    async with batcher:
        tasks = [asyncio.create_task(batcher.submit(sizes[0], timeout_s=60))]
        while not held.entered.is_set():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(batcher.submit(size, timeout_s=60)) for size in sizes[1:]]
        accepted = min(len(sizes) - 1, max_queue_size)
        while len(batcher._queue) < accepted:  # noqa: ASYNC110
            await asyncio.sleep(0)
        held.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return held.batches, sum(isinstance(outcome, Overloaded) for outcome in outcomes)


def simulated_batches(sizes: list[int], max_batch_size: int, max_queue_size: int) -> tuple[list[list[int]], int]:
    env, refused = simpy.Environment(), []
    rules = EncoderRules(max_batch_size, 0.0, max_queue_size, decode_workers=1)
    replica = EncoderReplica(env, costs(encode=Encode(0, 1.0, 0, 0)), rules, cores=1.0)

    def ask(size: int, moment: float) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(moment)
        try:
            yield from replica.encode(size)
        except Refused as error:
            refused.append(error.queue)

    for number, size in enumerate(sizes):
        env.process(ask(size, 0.0 if number == 0 else 0.5))
    env.run(1000)
    return replica.batches, len(refused)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=14),
    max_batch_size=st.integers(1, 8),
    max_queue_size=st.integers(1, 14),
)
def test_batches_are_those_of_the_real_batcher(sizes: list[int], max_batch_size: int, max_queue_size: int) -> None:
    real = asyncio.run(real_batches(sizes, max_batch_size, max_queue_size))
    assert simulated_batches(sizes, max_batch_size, max_queue_size) == real


def times(delay_s: float, prepare_s: float) -> list[float]:
    """Times at which two images are done, the second decoded after the first."""
    env, ended = simpy.Environment(), []
    profile = costs(encode=Encode(0, 1.0, 0, 0), prepare_per_image=prepare_s)
    replica = EncoderReplica(env, profile, EncoderRules(8, delay_s, 64, decode_workers=1), cores=1.0)

    def ask() -> Generator[simpy.Event, Any, None]:
        yield from replica.encode(1)
        ended.append(env.now)

    env.process(ask())
    env.process(ask())
    env.run(100)
    return ended


def test_a_batch_waits_for_an_image_that_is_being_decoded_but_not_longer_than_it_may() -> None:
    assert times(delay_s=0.2, prepare_s=0.1) == pytest.approx([1.2, 1.2])
    assert times(delay_s=0.05, prepare_s=0.1) == pytest.approx([1.15, 2.15])


def generated(rules: LLMRules, asked: list[tuple[float, int]]) -> tuple[dict[int, tuple[float, float]], list[str]]:
    """First token and end of each answer, and refusals; a prefill takes 1 s and 1 s a sequence, a step 0.1 s."""
    env, told, refused = simpy.Environment(), {}, []
    profile = costs(prefill=Prefill(0, 1.0, 1.0, 0, 0), decode=Decode(0, 0.1, 0, 0))
    replica = LLMReplica(env, profile, rules, cores=1.0)

    def ask(number: int, moment: float, tokens: int) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(moment)
        first, at = env.event(), []
        first.callbacks.append(lambda _: at.append(env.now))  # type: ignore[union-attr]
        try:
            yield from replica.generate(10, tokens, first)
            told[number] = at[0], env.now
        except Refused as error:
            refused.append(error.queue)

    for number, (moment, tokens) in enumerate(asked):
        env.process(ask(number, moment, tokens))
    env.run(1000)
    return told, refused


def test_an_answer_takes_a_prefill_and_a_step_for_each_further_token() -> None:
    told, _ = generated(LLMRules(max_batch_delay_s=0), [(0.0, 4)])
    assert told[0] == pytest.approx((2.0, 2.3))


def test_new_sequences_join_between_two_tokens_and_delay_the_running_ones() -> None:
    told, _ = generated(LLMRules(max_batch_delay_s=0), [(0.0, 4), (2.05, 1)])
    # Its prefill begins when the step under way has ended, at 2.1, and takes two seconds.
    assert told[1] == pytest.approx((4.1, 4.1))
    assert told[0] == pytest.approx((2.0, 4.3))


def test_a_sequence_that_joins_or_leaves_a_batch_costs_a_copy() -> None:
    profile = costs(decode=Decode(0, 0.1, 0, 0), regroup=Regroup(1.0, 0.5))
    env, ended = simpy.Environment(), []
    replica = LLMReplica(env, profile, LLMRules(max_batch_delay_s=0), cores=1.0)

    def ask(moment: float, tokens: int) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(moment)
        yield from replica.generate(10, tokens, env.event())
        ended.append(env.now)

    env.process(ask(0.0, 4))
    env.process(ask(0.05, 2))
    env.run(1000)
    # 0.1: a step of the first alone, then 12 positions. Two sequences of 12 are joined: 13 s. A step, and the second
    # ends; the first, of 13 positions, is left: 7.5 s. Its last step.
    assert ended == pytest.approx([13.2, 20.8])


def test_an_idle_service_waits_until_its_batch_is_full() -> None:
    told, _ = generated(LLMRules(max_batch_size=2, max_batch_delay_s=5.0), [(0.0, 1), (1.0, 1)])
    assert told[0] == told[1] == pytest.approx((4.0, 4.0))
    alone, _ = generated(LLMRules(max_batch_size=2, max_batch_delay_s=5.0), [(0.0, 1)])
    assert alone[0] == pytest.approx((7.0, 7.0))


def test_a_full_queue_refuses_and_a_full_batch_lets_requests_wait() -> None:
    rules = LLMRules(max_batch_size=1, max_batch_delay_s=0, max_queue_size=1)
    told, refused = generated(rules, [(0.0, 1), (0.5, 1), (0.6, 1)])
    assert told == {0: pytest.approx((2.0, 2.0)), 1: pytest.approx((4.0, 4.0))}
    assert refused == ["LLM queue"]


def test_sending_takes_turns_with_the_model_on_cores_and_overlaps_an_accelerator() -> None:
    times_ = {"prefill": Prefill(0, 0, 0, 0, 0), "decode": Decode(0.2, 1.0, 0, 0), "llm_per_token": 0.1}
    assert costs(shares_cores=True, **times_).step_s(4, 10) == pytest.approx(1.4)
    assert costs(shares_cores=False, **times_).step_s(4, 10) == pytest.approx(1.0)
    assert costs(shares_cores=False, **times_).step_s(20, 10) == pytest.approx(2.2)  # launches, then tokens


def test_the_rules_begin_as_the_services_settings_do() -> None:
    encoder, llm = EncoderSettings(model="m"), LLMSettings(model="m")
    assert EncoderRules() == EncoderRules(
        encoder.max_batch_size, encoder.max_batch_delay_ms / 1e3, encoder.max_queue_size, encoder.decode_workers
    )
    assert LLMRules() == LLMRules(llm.max_batch_size, llm.max_batch_delay_ms / 1e3, llm.max_queue_size)
    assert SimulatedDeployment(1, 1).max_concurrent_requests == GatewaySettings(model="m").max_concurrent_requests
