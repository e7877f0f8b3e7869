"""Answers that would not be done by their deadline are refused before they are encoded, by measured times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

import httpx
import pytest
from prometheus_client import REGISTRY

from fovea.errors import DeadlineExceeded, Overloaded
from gateway.core.deadlines import now
from gateway.core.stage_times import StageTimes
from tests.clock import Clock
from tests.unit.gateway.conftest import Gateway, StartGateway, ask

MARGIN = 1.25
"""Expected times over measured ones."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def times(clock: Clock) -> StageTimes:
    return StageTimes(clock)


def refusals() -> float:
    return REGISTRY.get_sample_value("fovea_refusals_total", {"reason": "deadline"}) or 0.0


async def measure(
    times: StageTimes, clock: Clock, *, encode_s: float, first_token_s: float, token_s: float, num_tokens: int = 9
) -> None:
    """Three answers, one after the other."""
    for _ in range(3):
        with times.answer(deadline=now() + 60, max_tokens=num_tokens) as stages:
            with stages.encode() as encoded:
                clock.now += encode_s
                encoded()
            with stages.generate() as generated:
                clock.now += first_token_s
                stages.add_piece()
                clock.now += token_s * (num_tokens - 1)
                generated(num_tokens)
        clock.now -= encode_s + first_token_s + token_s * (num_tokens - 1)  # so that nothing is forgotten


async def test_both_stages_count_and_tokens_count_up_to_max_tokens(times: StageTimes, clock: Clock) -> None:
    await measure(times, clock, encode_s=1.0, first_token_s=0.5, token_s=0.25)
    with times.answer(deadline=now() + 60, max_tokens=1):
        assert times.encode_s() == pytest.approx(MARGIN * 1.0)
        assert times.generate_s(1) == pytest.approx(MARGIN * 0.5)
        assert times.generate_s(5) == pytest.approx(MARGIN * (0.5 + 4 * 0.25))
        assert times.generate_s(1000) == pytest.approx(MARGIN * (0.5 + 8 * 0.25))  # answers end by themselves


async def test_a_refusal_is_counted_and_says_when_to_come_back(times: StageTimes, clock: Clock) -> None:
    await measure(times, clock, encode_s=10.0, first_token_s=2.0, token_s=1.0)
    before = refusals()
    with (
        times.answer(deadline=now() + 5, max_tokens=9) as short,
        times.answer(deadline=now() + 60, max_tokens=9) as long,
    ):
        with pytest.raises(Overloaded, match=r"answers take about 50\.0 s at present") as caught:
            short.encode_by()
        long.encode_by()
    assert caught.value.retry_after_s is not None
    assert 45 <= caught.value.retry_after_s <= 50
    assert refusals() == before + 1


async def test_an_answer_alone_is_never_refused_and_has_its_whole_deadline(times: StageTimes, clock: Clock) -> None:
    await measure(times, clock, encode_s=10.0, first_token_s=2.0, token_s=1.0)
    deadline = now() + 5
    with times.answer(deadline=deadline, max_tokens=9) as stages:
        assert stages.encode_by() == deadline


async def test_nothing_is_refused_after_two_measurements(times: StageTimes) -> None:
    for _ in range(2):
        times.add_encode(100.0, 1)
        times.add_first_token(100.0, 1)
    deadline = now() + 5
    with times.answer(deadline=now() + 60, max_tokens=9), times.answer(deadline=deadline, max_tokens=9) as stages:
        assert stages.encode_by() == deadline


async def test_measurements_are_forgotten(times: StageTimes, clock: Clock) -> None:
    await measure(times, clock, encode_s=10.0, first_token_s=2.0, token_s=1.0)
    clock.now += 30.0
    deadline = now() + 5
    with times.answer(deadline=now() + 60, max_tokens=9), times.answer(deadline=deadline, max_tokens=9) as stages:
        assert stages.encode_by() == deadline


async def test_times_that_were_measured_under_load_do_not_hold_once_it_has_gone(times: StageTimes) -> None:
    for _ in range(3):
        times.add_first_token(20.0, num_running=20)
    with times.answer(deadline=now() + 60, max_tokens=9), times.answer(deadline=now() + 5, max_tokens=9) as stages:
        assert times.generate_s(9) == pytest.approx(MARGIN * 20.0 * 2 / 20)
        stages.encode_by()


@pytest.mark.parametrize(("first_token_s", "reserved_s"), [(1.0, MARGIN * 1.0), (15.0, 5.0)])
async def test_an_encode_call_leaves_time_for_the_generation_up_to_a_quarter(
    times: StageTimes, first_token_s: float, reserved_s: float
) -> None:
    for _ in range(3):
        times.add_first_token(first_token_s, 2)
    deadline = now() + 20 if first_token_s > 10 else now() + 10
    with times.answer(deadline=now() + 60, max_tokens=9), times.answer(deadline=deadline, max_tokens=9) as stages:
        assert deadline - stages.encode_by() == pytest.approx(reserved_s, abs=0.1)


async def test_a_stage_that_its_deadline_cuts_is_measured_and_one_whose_client_leaves_is_not(
    times: StageTimes, clock: Clock
) -> None:
    async def cut(error: BaseException) -> None:
        with times.answer(deadline=now() + 60, max_tokens=9) as stages:
            with suppress(type(error)), stages.encode():
                clock.now += 4.0
                raise error
            with suppress(type(error)), stages.generate():
                clock.now += 8.0
                raise error
            clock.now -= 12.0

    for _ in range(3):
        await cut(asyncio.CancelledError())
    assert (times.encode_s(), times.generate_s(9)) == (0.0, 0.0)
    for _ in range(3):
        await cut(DeadlineExceeded("too late"))
    with times.answer(deadline=now() + 60, max_tokens=9):
        assert times.encode_s() == pytest.approx(MARGIN * 4.0)
        assert times.generate_s(9) == pytest.approx(MARGIN * 8.0)


class SlowGateway:
    """A gateway whose clock moves while the LLM service generates."""

    def __init__(self, gateway: Gateway, clock: Clock) -> None:
        self.gateway = gateway
        self._clock = clock

    async def hold(self, question: str) -> Awaitable[httpx.Response]:
        """An answer that waits in the LLM service."""
        self.gateway.llm.gate.shut()
        self.gateway.llm.gate.reached.clear()
        body = ask(question=question, timeout_s=60, max_tokens=100)
        answer = asyncio.create_task(self.gateway.http.post("/v1/answer", json=body))
        await self.gateway.llm.gate.reached.wait()
        return answer

    async def release(self, answer: Awaitable[httpx.Response], *, after_s: float) -> None:
        self._clock.now += after_s
        self.gateway.llm.gate.open()
        assert (await answer).status_code == 200


@pytest.fixture
async def slow(start_gateway: StartGateway, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> SlowGateway:
    """A gateway that has measured three answers of 20 s."""
    monkeypatch.setattr("gateway.app.StageTimes", lambda: StageTimes(clock))
    slow = SlowGateway(await start_gateway(), clock)
    for number in range(3):
        await slow.release(await slow.hold(f"Question {number}?"), after_s=20.0)
        clock.now -= 20.0
    return slow


async def test_a_request_with_a_short_timeout_is_a_429_and_is_not_encoded(slow: SlowGateway) -> None:
    gateway, other = slow.gateway, await slow.hold("What else?")
    num_calls, before = len(gateway.encoder.calls), refusals()
    response = await gateway.http.post("/v1/answer", json=ask(question="Is it red?", timeout_s=5))
    assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
    assert float(response.headers["retry-after"]) >= 7
    assert len(gateway.encoder.calls) == num_calls
    assert refusals() == before + 1
    await slow.release(other, after_s=0.0)


async def test_requests_that_can_be_done_are_answered_meanwhile(slow: SlowGateway) -> None:
    gateway, other = slow.gateway, await slow.hold("What else?")
    cached = await gateway.answer(question="Question 0?", timeout_s=5, max_tokens=100)
    assert cached["cache"]["answer"] == "hit"
    long = await slow.hold("Is it red?")  # with 60 s
    assert gateway.encoder.timeouts_s[-2] > 50  # of the other one, which was alone
    assert gateway.encoder.timeouts_s[-1] < 50  # the generation needs the rest
    await slow.release(other, after_s=0.0)
    await long


async def test_cached_visual_tokens_are_left_to_the_llm_service(slow: SlowGateway) -> None:
    gateway, other = slow.gateway, await slow.hold("What else?")
    gateway.llm.gate.reached.clear()
    short = asyncio.create_task(gateway.answer(question="Question 0?", timeout_s=5, max_tokens=99))
    await gateway.llm.gate.reached.wait()
    await slow.release(other, after_s=0.0)
    assert (await short)["cache"]["visual_tokens"] == "hit"


async def test_short_requests_are_accepted_again_when_the_evidence_has_faded(slow: SlowGateway, clock: Clock) -> None:
    gateway, other = slow.gateway, await slow.hold("What else?")
    await gateway.refused(429, question="Is it red?", timeout_s=5)
    clock.now += 60.0
    gateway.llm.gate.reached.clear()
    short = asyncio.create_task(gateway.answer(question="Is it red?", timeout_s=5))
    await gateway.llm.gate.reached.wait()
    await slow.release(other, after_s=0.0)
    await short
