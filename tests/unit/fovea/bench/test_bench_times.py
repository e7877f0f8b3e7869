"""Times and rates of `fovea bench`, by a clock that the test sets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fovea.bench.completion import Completion, Failure
from fovea.bench.endpoint import Endpoint
from fovea.bench.images import NoiseImages
from fovea.bench.measurement import Load, Measurement, Round, measure
from fovea.bench.requests import Question
from fovea.bench.statistics import Spread, Summary, ratios
from tests.unit.fovea.bench.chat_endpoint import ChatEndpoint, Exchange, answer


class ManualClock:
    """Clock that stands still until a test sets it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._reads = 0
        self._read = threading.Condition()

    def __call__(self) -> float:
        with self._read:
            self._reads += 1
            self._read.notify_all()
            return self.now

    @contextmanager
    def until_read(self) -> Iterator[None]:
        """Context that ends after the clock was read again."""
        with self._read:
            before = self._reads
        yield
        with self._read:
            assert self._read.wait_for(lambda: self._reads > before, timeout=60)


def measurement(endpoint: ChatEndpoint, load: Load, clock: ManualClock) -> Measurement:
    question = Question("what?", NoiseImages((8, 8)))
    return Measurement(Endpoint(endpoint.url), ["m"], question, load, clock=clock)


async def test_first_token_and_later_tokens_are_timed_apart(endpoint: ChatEndpoint) -> None:
    clock = ManualClock()

    def script(exchange: Exchange) -> None:
        exchange.start()
        clock.now = 1.0
        with clock.until_read():
            exchange.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for now, content in ((5.0, "a"), (6.0, "b"), (8.0, "c")):
            clock.now = now
            with clock.until_read():
                exchange.text(content)
        clock.now = 9.0
        exchange.end({"completion_tokens": 4})

    endpoint.script = script
    run = measurement(endpoint, Load(requests=1, warm_up=0), clock)
    await measure(run)
    (part,) = run.rounds
    assert part.seconds == 9
    (done,) = part.completions
    assert done.ttft_s == 5, "a chunk with a role and no text is no token"
    assert done.tpot_s == 1, "3 tokens in 3 s after the first, by usage"
    assert done.latency_s == 9


async def test_chunks_of_reasoning_are_tokens(endpoint: ChatEndpoint) -> None:
    clock = ManualClock()

    def script(exchange: Exchange) -> None:
        exchange.start()
        clock.now = 2.0
        with clock.until_read():
            exchange.event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})
        clock.now = 4.0
        exchange.text("a")
        exchange.end({"completion_tokens": 2})

    endpoint.script = script
    run = measurement(endpoint, Load(requests=1, warm_up=0), clock)
    await measure(run)
    assert [done.ttft_s for done in run.rounds[0].completions] == [2]


async def test_a_duration_limits_the_start_of_requests(endpoint: ChatEndpoint) -> None:
    clock = ManualClock()

    def script(exchange: Exchange) -> None:
        clock.now += 2.0
        answer(exchange)

    endpoint.script = script
    run = measurement(endpoint, Load(requests=None, duration_s=5.0, warm_up=0), clock)
    await measure(run)
    (part,) = run.rounds
    assert len(part.completions) == 3, "requests at 0, 2 and 4 s"
    assert part.seconds == 6
    summary = Summary([part])
    assert summary.requests_per_s == 0.5
    assert summary.output_tokens_per_s == 3


def part(model: int, number: int, seconds: float, *latencies_s: float) -> Round:
    done = [Completion(latency, latency / 2, None, 10, has_usage=True) for latency in latencies_s]
    return Round(model, 1, number, seconds, [*done, Failure("timeout", "no answer")])


def test_ratios_are_taken_round_by_round() -> None:
    baseline = Summary([part(0, 0, 2.0, 1.0), part(0, 1, 4.0, 2.0), part(0, 2, 8.0, 4.0)])
    other = Summary([part(1, 0, 1.0, 0.5), part(1, 1, 1.0, 0.5), part(1, 2, 8.0, 8.0), part(1, 3, 1.0, 0.1)])
    found = ratios(other, baseline)
    assert found["requests_per_s"] == Spread(2, 1, 4)
    assert found["latency_p50"] == Spread(0.5, 0.25, 2)
    assert found["ttft_p50"] == Spread(0.5, 0.25, 2)
    assert found["tpot_p50"] is None


def test_percentiles_pool_the_requests_of_all_rounds() -> None:
    summary = Summary([part(0, 0, 10.0, *range(1, 51)), part(0, 1, 10.0, *range(51, 101))])
    assert summary.requests == 102
    assert len(summary.failures) == 2
    assert summary.requests_per_s == 5
    assert summary.output_tokens_per_s == 50
    assert summary.percentiles("latency") == pytest.approx({50: 50.5, 95: 95.05, 99: 99.01})


@pytest.mark.parametrize("latencies", [(0.3,), (0.3, 0.3, 0.3)])
def test_percentiles_of_equal_values_are_that_value(latencies: tuple[float, ...]) -> None:
    assert Summary([part(0, 0, 1.0, *latencies)]).percentiles("latency") == {50: 0.3, 95: 0.3, 99: 0.3}
