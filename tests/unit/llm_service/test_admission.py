"""Admission to the queue of the engine, whose steps the test calls and whose clock it moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fovea.errors import Overloaded
from llm_service.engine.answer_times import AnswerTimes
from llm_service.engine.base import GenerationRequest, GenerationTiming
from llm_service.engine.transformers import TransformersEngine
from llm_service.engine.waiting_queue import WaitingQueue
from llm_service.prompts import Prompt
from llm_service.sampling import SamplingParams
from tests.clock import Clock

BOS = 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(loaded: Any, clock: Clock) -> Callable[..., TransformersEngine]:
    """Starts an engine that runs one sequence at a time, on the clock of the test."""

    def make(*, max_queue_time_s: float, lane_of: Callable[[Any], int] = lambda _: 0) -> TransformersEngine:
        engine: TransformersEngine = loaded(max_batch_size=1).engine
        engine._answer_times = AnswerTimes(clock)
        engine._waiting = WaitingQueue(
            64,
            max_queue_time_s=max_queue_time_s,
            answer_times=engine._answer_times,
            lane_of=lane_of,
            clock=clock,
        )
        return engine

    return make


def request(*, prompt: int = 2, max_tokens: int = 2, deadline_s: float = 600.0) -> GenerationRequest:
    ids = np.array([BOS, *range(60, 59 + prompt)])
    return GenerationRequest(Prompt(ids, ()), SamplingParams(max_tokens=max_tokens), time.monotonic() + deadline_s)


def answer(engine: TransformersEngine, clock: Clock, *, count: int, interval_s: float) -> None:
    """Answers of `count` sequences, one in each interval."""
    for _ in range(count):
        clock.now += interval_s
        waiting = engine.num_waiting
        while engine.num_waiting == waiting:
            engine.step()


async def test_what_would_wait_too_long_is_refused_at_once(start: Any, clock: Clock) -> None:
    engine = start(max_queue_time_s=10.0)
    for _ in range(20):
        engine.submit(request())
    engine.step()
    assert engine.queue_time_s == 0.0  # nothing has left the queue yet
    answer(engine, clock, count=10, interval_s=2.0)
    assert engine.num_waiting == 9
    assert engine.queue_time_s == pytest.approx(18.0)
    with pytest.raises(Overloaded, match="waiting for about 18 s; up to 10 s are accepted") as caught:
        engine.submit(request())
    assert 8.0 <= (caught.value.retry_after_s or 0) <= 8.9
    answer(engine, clock, count=4, interval_s=2.0)
    engine.submit(request())


async def test_an_answer_that_would_miss_its_deadline_is_refused(start: Any, clock: Clock) -> None:
    engine = start(max_queue_time_s=600.0)
    for _ in range(20):
        engine.submit(request())
    engine.step()
    answer(engine, clock, count=10, interval_s=2.0)
    with pytest.raises(Overloaded, match="longer than the deadline"):
        engine.submit(request(deadline_s=10.0))
    engine.submit(request(deadline_s=40.0))


async def test_the_queue_of_long_sequences_does_not_refuse_short_ones(start: Any, clock: Clock) -> None:
    engine = start(max_queue_time_s=10.0, lane_of=lambda sequence: sequence.max_tokens > 2)
    for _ in range(20):
        engine.submit(request(max_tokens=3))
    engine.step()
    answer(engine, clock, count=10, interval_s=2.0)
    with pytest.raises(Overloaded):
        engine.submit(request(max_tokens=3))
    engine.submit(request(max_tokens=2))


def answered(*, prompt: int, max_tokens: int, times_ms: tuple[float, float, float] | None = None) -> Any:
    """A sequence of an answer of 21 tokens, with the times of its admission, first token and end."""
    timing = None if times_ms is None else GenerationTiming(*times_ms)
    return SimpleNamespace(request=request(prompt=prompt), max_tokens=max_tokens, token_ids=[0] * 21, timing=timing)


def test_the_time_of_an_answer_grows_with_its_prompt_and_its_tokens(clock: Clock) -> None:
    times = AnswerTimes(clock)
    for _ in range(3):
        assert times.expected_s(answered(prompt=10, max_tokens=64)) == 0.0
        times.observe(answered(prompt=10, max_tokens=64))  # it has failed
        times.observe(answered(prompt=10, max_tokens=64, times_ms=(500, 600, 2600)))
    assert times.expected_s(answered(prompt=10, max_tokens=64)) == pytest.approx(0.1 + 2.0)
    assert times.expected_s(answered(prompt=10, max_tokens=6)) == pytest.approx(0.1 + 0.5)
    assert times.expected_s(answered(prompt=30, max_tokens=6)) == pytest.approx(0.3 + 0.5)
