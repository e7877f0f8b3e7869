"""The batcher with an executor under the test's control: events instead of time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import REGISTRY

from encoder_service.engine.batching import Batcher
from fovea.errors import DeadlineExceeded, InvalidRequest, Overloaded, Unavailable
from tests.clock import Clock

FOREVER_S = 60.0


@dataclass(frozen=True)
class Job:
    name: str
    size: int = 1


@dataclass
class Backend:
    """Doubles names. `run` continues when `gate` is open, `prepare` of a name in `held` when its event is set."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)
    is_backlogged: bool = False

    async def prepare(self, request: str | Job) -> tuple[Job, float]:
        job = request if isinstance(request, Job) else Job(request)
        if job.name in self.held:
            await asyncio.wait_for(self.held[job.name].wait(), FOREVER_S)
        if job.name == "bad image":
            raise InvalidRequest("a bad image")
        return job, 0.0

    def size(self, job: Job) -> int:
        return job.size

    def run(self, batch: Sequence[Job]) -> list[str | Exception]:
        self.batches.append([job.name for job in batch])
        self.entered.set()
        assert self.gate.wait(FOREVER_S)
        if any(job.name == "crash" for job in batch):
            raise RuntimeError("the whole batch is lost")
        if any(job.name == "short" for job in batch):
            return []
        return [ValueError("bad request") if job.name == "bad request" else job.name * 2 for job in batch]


Start = Callable[..., Batcher[Any, Any, Any]]


@pytest.fixture
def backend() -> Any:
    backend = Backend()
    yield backend
    backend.gate.set()
    for event in backend.held.values():
        event.set()


@pytest.fixture
async def start(backend: Backend) -> AsyncIterator[Callable[..., Any]]:
    running: list[Batcher[Any, Any, Any]] = []

    async def make(**changes: Any) -> Batcher[Any, Any, Any]:
        options = {"max_batch_size": 4, "max_batch_delay_s": FOREVER_S, "max_queue_size": 8}
        batcher: Batcher[Any, Any, Any] = Batcher(backend, **(options | changes))
        await batcher.__aenter__()
        running.append(batcher)
        return batcher

    yield make
    backend.gate.set()
    for batcher in running:
        await batcher.__aexit__(None, None, None)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the other tasks run until `condition`, which is sure to become true."""
    async with asyncio.timeout(FOREVER_S):
        while not condition():  # noqa: ASYNC110  # there is no event for "the other task has come this far"
            await asyncio.sleep(0)


async def occupy(batcher: Batcher[Any, Any, Any], backend: Backend) -> asyncio.Task[Any]:
    """A request that holds the model thread until the gate opens."""
    task = asyncio.create_task(batcher.submit("first", timeout_s=FOREVER_S))
    await until(backend.entered.is_set)
    return task


async def test_an_idle_service_computes_a_request_at_once(backend: Backend, start: Any) -> None:
    batcher = await start(max_batch_delay_s=FOREVER_S)
    backend.gate.set()
    result, timing = await batcher.submit("a", timeout_s=FOREVER_S)
    assert result == "aa"
    assert timing.batch_size == 1


async def test_requests_that_wait_for_the_model_share_a_batch(backend: Backend, start: Any) -> None:
    batcher = await start()
    first = await occupy(batcher, backend)
    others = [asyncio.create_task(batcher.submit(name, timeout_s=FOREVER_S)) for name in "abc"]
    await until(lambda: len(batcher._queue) == 3)
    backend.gate.set()
    assert [(await task)[0] for task in others] == ["aa", "bb", "cc"]
    assert backend.batches == [["first"], ["a", "b", "c"]]
    assert (await others[0])[1].batch_size == 3
    await first


async def test_a_request_waits_for_one_whose_image_is_being_decoded(backend: Backend, start: Any) -> None:
    batcher = await start()
    backend.gate.set()
    backend.held["slow"] = asyncio.Event()
    slow = asyncio.create_task(batcher.submit("slow", timeout_s=FOREVER_S))
    await until(lambda: batcher.num_waiting == 1)
    quick = asyncio.create_task(batcher.submit("quick", timeout_s=FOREVER_S))
    await until(lambda: len(batcher._queue) == 1)
    assert not backend.batches
    backend.held["slow"].set()
    await asyncio.gather(slow, quick)
    assert backend.batches == [["quick", "slow"]]


async def test_the_batch_delay_bounds_that_wait(backend: Backend, start: Any) -> None:
    batcher = await start(max_batch_delay_s=0.0)
    backend.gate.set()
    backend.held["slow"] = asyncio.Event()
    slow = asyncio.create_task(batcher.submit("slow", timeout_s=FOREVER_S))
    await until(lambda: batcher.num_waiting == 1)
    await batcher.submit("quick", timeout_s=FOREVER_S)
    assert backend.batches == [["quick"]]
    backend.held["slow"].set()
    await slow


async def test_batches_respect_sizes_and_a_large_request_runs_alone(backend: Backend, start: Any) -> None:
    batcher = await start(max_batch_size=4)
    first = await occupy(batcher, backend)
    jobs = [Job("a", 3), Job("b", 1), Job("c", 2), Job("d", 9), Job("e", 1)]
    tasks = []
    for count, job in enumerate(jobs, start=1):
        tasks.append(asyncio.create_task(batcher.submit(job, timeout_s=FOREVER_S)))
        await until(lambda count=count: len(batcher._queue) == count)
    backend.gate.set()
    await asyncio.gather(first, *tasks)
    assert backend.batches == [["first"], ["a", "b"], ["c"], ["d"], ["e"]]


async def test_a_full_queue_refuses_at_once_with_a_time_to_retry(backend: Backend, start: Any) -> None:
    batcher = await start(max_queue_size=2)
    first = await occupy(batcher, backend)
    waiting = [asyncio.create_task(batcher.submit(name, timeout_s=FOREVER_S)) for name in "ab"]
    await until(lambda: batcher.num_waiting == 2)
    with pytest.raises(Overloaded, match="2 requests waiting") as caught:
        await batcher.submit("c", timeout_s=FOREVER_S)
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 0
    backend.gate.set()
    await asyncio.gather(first, *waiting)
    assert (await batcher.submit("c", timeout_s=FOREVER_S))[0] == "cc"


async def test_a_request_being_prepared_counts_as_waiting(backend: Backend, start: Any) -> None:
    batcher = await start(max_queue_size=1)
    backend.gate.set()
    backend.held["slow"] = asyncio.Event()
    slow = asyncio.create_task(batcher.submit("slow", timeout_s=FOREVER_S))
    await until(lambda: batcher.num_waiting == 1)
    with pytest.raises(Overloaded):
        await batcher.submit("a", timeout_s=FOREVER_S)
    backend.held["slow"].set()
    await slow


async def test_aborted_requests_are_not_computed(backend: Backend, start: Any) -> None:
    batcher = await start()
    first = await occupy(batcher, backend)
    gone, stays = (asyncio.create_task(batcher.submit(name, timeout_s=FOREVER_S)) for name in ("gone", "stays"))
    await until(lambda: len(batcher._queue) == 2)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert batcher.num_waiting == len(batcher._queue) == 1
    backend.gate.set()
    await asyncio.gather(first, stays)
    assert backend.batches == [["first"], ["stays"]]


async def test_every_queue_time_is_observed_once_also_of_aborted_requests(backend: Backend, start: Any) -> None:
    def waits() -> float:
        return REGISTRY.get_sample_value("fovea_encoder_queue_wait_seconds_count") or 0.0

    before = waits()
    batcher = await start()
    first = await occupy(batcher, backend)
    assert (batcher.num_running, waits()) == (1, before + 1)
    gone, stays = (asyncio.create_task(batcher.submit(name, timeout_s=FOREVER_S)) for name in ("gone", "stays"))
    await until(lambda: len(batcher._queue) == 2)
    gone.cancel()
    await asyncio.wait([gone])
    assert waits() == before + 2
    backend.gate.set()
    await asyncio.gather(first, stays)
    assert (batcher.num_running, waits()) == (0, before + 3)


async def test_a_request_aborted_while_running_does_not_affect_others(backend: Backend, start: Any) -> None:
    batcher = await start()
    first = await occupy(batcher, backend)
    first.cancel()
    backend.gate.set()
    assert (await batcher.submit("a", timeout_s=FOREVER_S))[0] == "aa"
    assert first.cancelled() or first.cancelling()


async def test_a_request_past_its_deadline_is_not_computed(backend: Backend, start: Any) -> None:
    batcher = await start()
    first = await occupy(batcher, backend)
    with pytest.raises(DeadlineExceeded, match="within the deadline"):
        await batcher.submit("late", timeout_s=0.01)
    assert batcher.num_waiting == 0
    backend.gate.set()
    await first
    await batcher.submit("a", timeout_s=FOREVER_S)
    assert backend.batches == [["first"], ["a"]]


async def test_a_deadline_that_passes_as_the_batch_is_formed_still_counts(backend: Backend, start: Any) -> None:
    batcher = await start()
    first = await occupy(batcher, backend)
    late = asyncio.create_task(batcher.submit("late", timeout_s=FOREVER_S))
    await until(lambda: len(batcher._queue) == 1)
    assert batcher._take_batch(now=float("inf")) == []
    with pytest.raises(DeadlineExceeded):
        await late
    backend.gate.set()
    await first


async def test_a_bad_request_fails_alone(backend: Backend, start: Any) -> None:
    batcher = await start()
    first = await occupy(batcher, backend)
    bad, good = (asyncio.create_task(batcher.submit(name, timeout_s=FOREVER_S)) for name in ("bad request", "good"))
    await until(lambda: len(batcher._queue) == 2)
    backend.gate.set()
    assert (await good)[0] == "goodgood"
    with pytest.raises(ValueError, match="bad request"):
        await bad
    await first


async def test_a_request_that_cannot_be_prepared_leaves_the_queue(backend: Backend, start: Any) -> None:
    batcher = await start(max_queue_size=1)
    backend.gate.set()
    with pytest.raises(InvalidRequest, match="a bad image"):
        await batcher.submit("bad image", timeout_s=FOREVER_S)
    assert batcher.num_waiting == 0
    assert (await batcher.submit("a", timeout_s=FOREVER_S))[0] == "aa"


async def test_a_failed_batch_fails_its_requests_and_the_next_is_computed(backend: Backend, start: Any) -> None:
    batcher = await start()
    backend.gate.set()
    with pytest.raises(RuntimeError, match="lost"):
        await batcher.submit("crash", timeout_s=FOREVER_S)
    with pytest.raises(ValueError, match="zip"):
        await batcher.submit("short", timeout_s=FOREVER_S)
    assert (await batcher.submit("a", timeout_s=FOREVER_S))[0] == "aa"


async def test_closing_refuses_all_waiting_requests(backend: Backend) -> None:
    batcher: Batcher[Any, Any, Any] = Batcher(backend, max_batch_size=4, max_batch_delay_s=0, max_queue_size=8)
    async with batcher:
        first = await occupy(batcher, backend)
        waiting = asyncio.create_task(batcher.submit("a", timeout_s=FOREVER_S))
        await until(lambda: len(batcher._queue) == 1)
        backend.held["slow"] = asyncio.Event()
        slow = asyncio.create_task(batcher.submit("slow", timeout_s=FOREVER_S))
        await until(lambda: batcher.num_waiting == 2)
    backend.held["slow"].set()
    for task in (first, waiting, slow):
        with pytest.raises(Unavailable, match="shutting down"):
            await task
    with pytest.raises(Unavailable):
        await batcher.submit("b", timeout_s=FOREVER_S)


class Turnstile:
    """A gate that lets one batch through for each `release`, and all after `set`."""

    def __init__(self) -> None:
        self._passes = threading.Semaphore(0)

    def wait(self, timeout: float) -> bool:
        return self._passes.acquire(timeout=timeout)

    def release(self) -> None:
        self._passes.release()

    def set(self) -> None:
        self._passes.release(1000)


async def overload(batcher: Batcher[Any, Any, Any], backend: Backend, clock: Clock, *, batch_s: float) -> list[Any]:
    """Seven batches of `batch_s` seconds, of one request and then of four; returns all requests. Seven still wait."""
    turnstile: Any = Turnstile()
    backend.gate = turnstile
    first = asyncio.create_task(batcher.submit("first", timeout_s=FOREVER_S))
    await until(lambda: batcher.num_running == 1)
    tasks = [asyncio.create_task(batcher.submit(str(number), timeout_s=FOREVER_S)) for number in range(31)]
    await until(lambda: len(batcher._queue) == 31)
    for number in range(6):
        clock.now += batch_s
        turnstile.release()
        await until(lambda number=number: batcher.num_waiting == 31 - 4 * (number + 1))
    return [first, *tasks]


async def test_what_cannot_be_computed_in_time_is_refused_before_it_is_prepared(backend: Backend, start: Any) -> None:
    clock = Clock()
    batcher = await start(max_queue_size=64, max_queue_time_s=10.0, max_batch_delay_s=0, clock=clock)
    tasks = await overload(batcher, backend, clock, batch_s=16.0)
    assert batcher.num_waiting == 7
    assert batcher.queue_time_s == pytest.approx(7 * 4.0, rel=0.25)
    backend.held["late"] = asyncio.Event()  # it would wait there for ever
    with pytest.raises(Overloaded, match="up to 10 s are accepted") as caught:
        await batcher.submit("late", timeout_s=FOREVER_S)
    assert 10.0 <= (caught.value.retry_after_s or 0) <= 25.0
    backend.gate.set()
    await asyncio.gather(*tasks)
    assert (await batcher.submit("a", timeout_s=FOREVER_S))[0] == "aa"  # nothing waits


async def test_a_deadline_that_the_queue_time_leaves_no_room_for_is_refused(backend: Backend, start: Any) -> None:
    clock = Clock()
    batcher = await start(max_queue_size=64, max_batch_delay_s=0, clock=clock)
    tasks = await overload(batcher, backend, clock, batch_s=16.0)
    with pytest.raises(Overloaded, match="longer than the deadline"):
        await batcher.submit("hasty", timeout_s=10.0)
    patient = asyncio.create_task(batcher.submit("patient", timeout_s=FOREVER_S))
    backend.gate.set()
    assert (await patient)[0] == "patientpatient"
    await asyncio.gather(*tasks)


async def test_one_that_is_long_in_preparation_locks_nobody_out(backend: Backend, start: Any) -> None:
    clock = Clock()
    batcher = await start(max_queue_size=64, max_queue_time_s=1.0, max_batch_delay_s=0, clock=clock)
    backend.gate.set()
    backend.held["50 megapixels"] = asyncio.Event()
    large = asyncio.create_task(batcher.submit("50 megapixels", timeout_s=FOREVER_S))
    for number in range(20):
        clock.now += 5.0
        await batcher.submit(str(number), timeout_s=FOREVER_S)
    await asyncio.gather(*(batcher.submit(name, timeout_s=FOREVER_S) for name in "abcdefgh"))
    backend.held["50 megapixels"].set()
    await large
