"""Dynamic batching: requests that arrive close together are computed together, on a thread of their own.

    submit -> prepare (worker processes) -> queue -> batch -> run (model thread) -> result

A request that comes while too many wait is refused at once. One whose caller has left, or whose deadline has passed,
leaves the queue before anything is computed for it. The event loop only ever waits, so health answers during inference.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from encoder_service import metrics
from fovea.errors import DeadlineExceeded, Overloaded, Unavailable

__all__ = ["Batched", "Batcher", "Computes"]

Request_contra = TypeVar("Request_contra", contravariant=True)
Request = TypeVar("Request")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Sized(Protocol):
    """A prepared request."""

    @property
    def size(self) -> int:
        """Places that it takes in a batch."""
        ...


Job = TypeVar("Job", bound=Sized)


class Computes(Protocol[Request_contra, Job, Result_co]):
    """What a batcher drives."""

    async def prepare(self, request: Request_contra) -> tuple[Job, float]:
        """A request that is ready for `run`, and the seconds that its preparation worked, without those it waited."""
        ...

    def run(self, batch: Sequence[Job]) -> Sequence[Result_co | Exception]:
        """The model; called from one thread. One outcome for each job."""
        ...


@dataclass(frozen=True, slots=True)
class Batched(Generic[Result]):
    """A result and how it came about. Durations in ms; all waiting counts as queue; `batch_size` in requests."""

    result: Result
    prepare_ms: float
    queue_ms: float
    run_ms: float
    batch_size: int


@dataclass(eq=False, slots=True)
class _Entry(Generic[Job, Result]):
    job: Job
    deadline: float
    arrived_at: float
    queued_at: float
    prepare_s: float
    future: asyncio.Future[Batched[Result]]
    started: bool = field(default=False)


def _wait_s(entry: _Entry[Any, Any], now: float) -> float:
    """Queue time in seconds: since arrival, less the work of the preparation. Waiting for a worker counts."""
    return now - entry.arrived_at - entry.prepare_s


def _observe_wait(entry: _Entry[Any, Any], now: float) -> None:
    metrics.QUEUE_WAIT_SECONDS.observe(_wait_s(entry, now))


def _shutting_down() -> Unavailable:
    return Unavailable("the encoder service is shutting down", retry_after_s=1.0)


class Batcher(Generic[Request, Job, Result]):
    """See the module. Use as an async context manager; leaving it refuses whoever still waits.

    Args:
        compute: Prepares and runs.
        max_batch_size: Most places in a batch; a larger request runs by itself.
        max_batch_delay_s: Longest that the first of a batch waits for requests that are being prepared.
        max_queue_size: Most requests that wait (being prepared or queued); more are refused.
    """

    def __init__(
        self,
        compute: Computes[Request, Job, Result],
        *,
        max_batch_size: int,
        max_batch_delay_s: float,
        max_queue_size: int,
    ) -> None:
        self._compute = compute
        self._max_batch_size = max_batch_size
        self._max_batch_delay_s = max_batch_delay_s
        self._max_queue_size = max_queue_size
        self._queue: deque[_Entry[Job, Result]] = deque()
        self._arrival = asyncio.Event()
        self._running: list[_Entry[Job, Result]] = []
        self._num_waiting = 0
        self._batch_s = 0.1  # how long the last one took
        self._closed = False
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batcher[Request, Job, Result]:
        self._loop_task = asyncio.create_task(self._serve(), name="batcher")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        assert self._loop_task is not None
        self._loop_task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._loop_task
        for entry in (*self._running, *self._queue):
            if not entry.future.done():
                entry.future.set_exception(_shutting_down())
        self._model_thread.shutdown(wait=False, cancel_futures=True)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for compute."""
        return self._num_waiting

    @property
    def num_running(self) -> int:
        """Requests in the batch that is computed now."""
        return len(self._running)

    async def submit(self, request: Request, *, timeout_s: float) -> Batched[Result]:
        """The result of `request`.

        Raises:
            Overloaded: Too many wait already; says when to come back.
            DeadlineExceeded: Not done within `timeout_s`.
            Unavailable: Shutting down.
            Exception: Whatever `prepare` or `run` found wrong with this request.
        """
        if self._closed:
            raise _shutting_down()
        if self._num_waiting >= self._max_queue_size:
            raise Overloaded(
                f"the encoder service has {self._num_waiting} requests waiting, as many as it accepts",
                retry_after_s=self._expected_wait_s(),
            )
        loop = asyncio.get_running_loop()
        arrived_at = loop.time()
        deadline = arrived_at + timeout_s
        entry: _Entry[Job, Result] | None = None
        self._num_waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                job, prepare_s = await self._compute.prepare(request)
                if self._closed:
                    raise _shutting_down()
                entry = _Entry(job, deadline, arrived_at, loop.time(), prepare_s, loop.create_future())
                self._queue.append(entry)
                self._arrival.set()
                return await entry.future
        except TimeoutError:
            raise DeadlineExceeded("the picture was not encoded within the deadline") from None
        finally:
            if entry is None or not entry.started:
                self._num_waiting -= 1
                if entry is not None:
                    _observe_wait(entry, loop.time())
                    if entry in self._queue:
                        self._queue.remove(entry)
                self._arrival.set()

    def _expected_wait_s(self) -> float:
        batches = math.ceil(self._num_waiting / self._max_batch_size)
        return max(0.1, round(batches * self._batch_s, 1))

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._running = await self._next_batch()
            if not batch:
                continue
            started_at, start = loop.time(), time.perf_counter()
            jobs = [entry.job for entry in batch]
            outcomes: list[tuple[_Entry[Job, Result], Result | Exception]]
            try:
                results = await loop.run_in_executor(self._model_thread, self._compute.run, jobs)
                outcomes = list(zip(batch, results, strict=True))
            except Exception as error:  # this loop must outlive every batch
                outcomes = [(entry, error) for entry in batch]
            self._batch_s = time.perf_counter() - start
            self._running = []
            for entry, outcome in outcomes:
                if entry.future.done():
                    continue  # the caller left meanwhile
                if isinstance(outcome, Exception):
                    entry.future.set_exception(outcome)
                    continue
                queue_s = _wait_s(entry, started_at)
                entry.future.set_result(
                    Batched(outcome, 1000 * entry.prepare_s, 1000 * queue_s, 1000 * self._batch_s, len(batch))
                )

    async def _next_batch(self) -> list[_Entry[Job, Result]]:
        """Waits for the first, then for those about to join it, until the batch is full or the delay is over."""
        loop = asyncio.get_running_loop()
        while not self._queue:
            self._arrival.clear()
            await self._arrival.wait()
        due = self._queue[0].queued_at + self._max_batch_delay_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                while self._company_is_near():
                    self._arrival.clear()
                    await self._arrival.wait()
        return self._take(loop.time())

    def _company_is_near(self) -> bool:
        """There is room in the batch, and a request being prepared will soon want it: an idle service never waits."""
        room = sum(entry.job.size for entry in self._queue) < self._max_batch_size
        return room and self._num_waiting > len(self._queue) > 0

    def _take(self, now: float) -> list[_Entry[Job, Result]]:
        batch: list[_Entry[Job, Result]] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].job.size <= self._max_batch_size):
            entry = self._queue.popleft()
            if entry.future.done():
                continue  # cancelled in this very turn of the loop; `submit` settles the count
            if entry.deadline <= now:
                entry.future.set_exception(DeadlineExceeded("the picture was not encoded within the deadline"))
                continue
            entry.started = True
            self._num_waiting -= 1
            _observe_wait(entry, now)
            size += entry.job.size
            batch.append(entry)
        return batch
