"""Goodput of two services in simulated time, with and without the gateway's measured times."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry, Histogram

from fovea.errors import DeadlineExceeded, Overloaded
from fovea.queue_admission import QueueAdmission
from fovea.service_rate import RecentMean
from gateway.core import deadlines, stage_times
from gateway.core.stage_times import AnswerStages, StageTimes

MAX_TOKENS = 32
DEADLINE_S = 5.0


class Events:
    """Events in simulated time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def clock(self) -> float:
        return self.now

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def run(self) -> None:
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()


@dataclass
class Call:
    begin: Callable[[], None]
    done: Callable[[], None]
    late: Callable[[], None]
    state: str = "waiting"


class Service:
    """A service that admits by its own queue. `cancels`: calls that are cut free their place at once."""

    def __init__(self, events: Events, rng: random.Random, *, places: int, seconds: float, cancels: bool) -> None:
        self._events, self._rng = events, rng
        self._idle, self._seconds, self._cancels = places, seconds, cancels
        self._times = RecentMean()
        self._waiting: deque[Call] = deque()
        queue_times = Histogram("queue_seconds", "Queue time.", registry=CollectorRegistry())
        self._admission = QueueAdmission(
            "service", max_queue_size=64, max_queue_time_s=10.0, queue_times=queue_times, clock=events.clock
        )

    def call(self, call: Call, deadline: float) -> None:
        compute_s = self._times.mean(self._events.now) or 0.0
        left_s = deadline - self._events.now
        self._admission.check(len(self._waiting), time_left_s=left_s, compute_s=compute_s)
        self._waiting.append(call)
        self._events.at(deadline, lambda: self._cut(call))
        self._start()

    def _cut(self, call: Call) -> None:
        if call.state == "ended":
            return
        if call.state == "waiting":
            self._waiting.remove(call)
        elif self._cancels:
            self._idle += 1
        call.state = "ended"
        self._start()
        call.late()

    def _start(self) -> None:
        num_started = min(self._idle, len(self._waiting))
        self._idle -= num_started
        for _ in range(num_started):
            self._run(self._waiting.popleft())
        self._admission.update(num_started, is_blocked=bool(self._waiting))

    def _run(self, call: Call) -> None:
        call.state = "running"
        call.begin()
        seconds = self._rng.gammavariate(4, self._seconds / 4)
        self._events.at(self._events.now + seconds, lambda: self._end(call, seconds))

    def _end(self, call: Call, seconds: float) -> None:
        is_cut = call.state == "ended"
        if is_cut and self._cancels:
            return
        call.state = "ended"
        self._times.add(seconds, 1, self._events.now)
        self._idle += 1
        self._start()
        if not is_cut:
            call.done()


class Gateway:
    """A gateway in front of two services. Requests come at random."""

    def __init__(self, events: Events, encoder: Service, llm: Service, *, measures: bool) -> None:
        self._events, self._encoder, self._llm, self._measures = events, encoder, llm, measures
        self._times = StageTimes(events.clock)
        self.ended: Counter[str] = Counter()

    def ask(self) -> None:
        deadline = self._events.now + DEADLINE_S
        answer = ExitStack()
        stages = answer.enter_context(self._times.answer(deadline=deadline, max_tokens=MAX_TOKENS))
        encode = ExitStack()
        measure = encode.enter_context(stages.encode())

        def encoded() -> None:
            measure()
            encode.close()
            self._generate(answer, stages, deadline)

        try:
            encode_by = stages.encode_by() if self._measures else deadline
            self._encoder.call(Call(lambda: None, encoded, lambda: self._late(answer, encode)), encode_by)
        except Overloaded:
            encode.close()
            self._end(answer, "refused")

    def _generate(self, answer: ExitStack, stages: AnswerStages, deadline: float) -> None:
        generate = ExitStack()
        measure = generate.enter_context(stages.generate())

        def done() -> None:
            measure(MAX_TOKENS)
            generate.close()
            self._end(answer, "in time")

        try:
            self._llm.call(Call(stages.add_piece, done, lambda: self._late(answer, generate)), deadline)
        except Overloaded:
            generate.close()
            self._end(answer, "refused")

    def _late(self, answer: ExitStack, stage: ExitStack) -> None:
        with pytest.raises(DeadlineExceeded), stage:
            raise DeadlineExceeded("too late")
        self._end(answer, "late")

    def _end(self, answer: ExitStack, how: str) -> None:
        self.ended[how] += 1
        answer.close()


Run = Callable[..., Counter[str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Function that simulates two minutes; the numbers of requests by how they ended."""

    def simulate(
        encode_s: float, generate_s: float, places: int, *, load: float, measures: bool, seed: int = 0
    ) -> Counter[str]:
        events, rng = Events(), random.Random(seed)
        for module in (deadlines, stage_times):
            monkeypatch.setattr(module, "now", events.clock)
        encoder = Service(events, rng, places=1, seconds=encode_s, cancels=False)
        llm = Service(events, rng, places=places, seconds=generate_s, cancels=True)
        gateway = Gateway(events, encoder, llm, measures=measures)
        arrival, rate = 0.0, load * min(1 / encode_s, places / generate_s)
        while (arrival := arrival + rng.expovariate(rate)) < 120:
            events.at(arrival, gateway.ask)
        events.run()
        return gateway.ended

    return simulate


@pytest.mark.parametrize(
    ("encode_s", "generate_s", "places"), [(0.05, 0.11, 1), (0.11, 0.05, 1), (0.1, 0.1, 1), (0.1, 2.0, 16)]
)
def test_under_overload_more_answers_are_in_time_and_few_are_late(
    run: Run, encode_s: float, generate_s: float, places: int
) -> None:
    alone = run(encode_s, generate_s, places, load=4.0, measures=False)
    measured = run(encode_s, generate_s, places, load=4.0, measures=True)
    assert measured["in time"] > 1.2 * alone["in time"]
    assert measured["late"] < 0.2 * alone["late"]


@pytest.mark.parametrize(
    ("encode_s", "generate_s", "places"), [(0.05, 0.11, 1), (0.11, 0.05, 1), (0.1, 0.1, 1), (0.1, 2.0, 16)]
)
def test_below_the_capacity_nearly_nothing_is_refused(
    run: Run, encode_s: float, generate_s: float, places: int
) -> None:
    ended = run(encode_s, generate_s, places, load=0.5, measures=True)
    assert ended["refused"] <= 0.01 * ended.total()
