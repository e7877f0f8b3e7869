"""Dynamic batching: requests that arrive close together are computed together, on the model thread.

    submit -> prepare (worker processes) -> queue -> batch -> run (model thread) -> result

A request that cannot be computed in time is refused at once, see `fovea.queue_admission`. An aborted request, and one
whose deadline has passed, leaves the queue before anything is computed for it. Nothing is computed on the event loop,
so health checks are answered during inference.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from encoder_service import metrics
from fovea.errors import DeadlineExceeded, Unavailable
from fovea.queue_admission import QueueAdmission
from fovea.service_rate import RecentMean

__all__ = ["BatchExecutor", "BatchTiming", "Batcher"]

Request_contra = TypeVar("Request_contra", contravariant=True)
Request = TypeVar("Request")
Job = TypeVar("Job")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class BatchExecutor(Protocol[Request_contra, Job, Result_co]):
    """Preparation of single requests, and computation of batches."""

    async def prepare(self, request: Request_contra) -> tuple[Job, float]:
        """The request ready for `run`, and its preparation time in seconds, without the wait for a worker process."""
        ...

    @property
    def is_backlogged(self) -> bool:
        """Whether a request waits for a worker process."""
        ...

    def size(self, job: Job) -> int:
        """Number of tower inputs that a prepared request adds to a batch."""
        ...

    def run(self, batch: Sequence[Job]) -> Sequence[Result_co | Exception]:
        """One outcome for each job. All calls come from one thread."""
        ...


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """Timing of a request.

    Attributes:
        prepare_ms: Preparation time in ms, without the wait for a worker process.
        queue_ms: Queue time in ms, including the wait for a worker process.
        run_ms: Time to compute its batch, in ms.
        batch_size: Number of requests in its batch.
    """

    prepare_ms: float
    queue_ms: float
    run_ms: float
    batch_size: int


@dataclass(eq=False, slots=True)
class _QueuedRequest(Generic[Job, Result]):
    """A prepared request with its size, see `BatchExecutor`. Times are those of the event loop, in seconds."""

    job: Job
    size: int
    deadline: float
    arrived_at: float
    queued_at: float
    prepare_s: float
    future: asyncio.Future[tuple[Result, BatchTiming]]
    is_running: bool = field(default=False)


def _queue_time_s(request: _QueuedRequest[Any, Any], now: float) -> float:
    """Queue time in seconds: time since arrival minus preparation time. It includes the wait for a worker process."""
    return now - request.arrived_at - request.prepare_s


def _observe_queue_time(request: _QueuedRequest[Any, Any], now: float) -> None:
    metrics.QUEUE_WAIT_SECONDS.observe(_queue_time_s(request, now))


def _shutting_down() -> Unavailable:
    return Unavailable("the encoder service is shutting down", retry_after_s=1.0)


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("the request was not encoded within the deadline")


class Batcher(Generic[Request, Job, Result]):
    """Dynamic batching, see the module. Exit of the async context fails all waiting and running requests.

    Args:
        executor: Executor of preparations and batches.
        max_batch_size: Largest number of tower inputs in a batch; a larger request runs by itself.
        max_batch_delay_s: Longest time that the first request of a batch waits for requests that are being prepared.
        max_queue_size: Largest number of waiting requests (being prepared or queued); more are refused.
        max_queue_time_s: Longest estimated queue time of an accepted request, in seconds.
        clock: Monotonic clock of the estimates, in seconds.
    """

    def __init__(
        self,
        executor: BatchExecutor[Request, Job, Result],
        *,
        max_batch_size: int,
        max_batch_delay_s: float,
        max_queue_size: int,
        max_queue_time_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._max_batch_size = max_batch_size
        self._max_batch_delay_s = max_batch_delay_s
        self._clock = clock
        self._admission = QueueAdmission(
            "encoder service",
            max_queue_size=max_queue_size,
            max_queue_time_s=max_queue_time_s,
            queue_times=metrics.QUEUE_WAIT_SECONDS,
            clock=clock,
        )
        self._queue: deque[_QueuedRequest[Job, Result]] = deque()
        self._changed = asyncio.Event()  # set whenever the queue or the number of waiting requests changes
        self._running: list[_QueuedRequest[Job, Result]] = []
        self._num_waiting = 0
        self._batch_s = RecentMean()
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
        for request in (*self._running, *self._queue):
            if not request.future.done():
                request.future.set_exception(_shutting_down())
        self._model_thread.shutdown(wait=False, cancel_futures=True)

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait for compute."""
        return self._num_waiting

    @property
    def num_running(self) -> int:
        """Number of requests in the batch that is being computed."""
        return len(self._running)

    @property
    def queue_time_s(self) -> float:
        """Estimated queue time of the next request, in seconds; 0 without evidence."""
        return self._admission.queue_time_s(self._num_waiting)

    async def submit(self, request: Request, *, timeout_s: float) -> tuple[Result, BatchTiming]:
        """The result of `request`, with its timing.

        Raises:
            Overloaded: There would be no result in time, or too many requests wait; with a time after which to retry.
            DeadlineExceeded: There is no result within `timeout_s` seconds.
            Unavailable: The batcher is being closed.
            Exception: The error of `prepare` or `run` for this request.
        """
        if self._closed:
            raise _shutting_down()
        self._observe_queue()
        compute_s = self._batch_s.mean(self._clock()) or 0.0
        self._admission.check(self._num_waiting, time_left_s=timeout_s, compute_s=compute_s)
        loop = asyncio.get_running_loop()
        arrived_at = loop.time()
        deadline = arrived_at + timeout_s
        queued: _QueuedRequest[Job, Result] | None = None
        self._num_waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                job, prepare_s = await self._executor.prepare(request)
                if self._closed:
                    raise _shutting_down()
                size = self._executor.size(job)
                queued = _QueuedRequest(job, size, deadline, arrived_at, loop.time(), prepare_s, loop.create_future())
                self._queue.append(queued)
                self._changed.set()
                self._observe_queue()
                return await queued.future
        except TimeoutError:
            raise _deadline_exceeded() from None
        finally:
            self._remove_if_waiting(queued, loop.time())

    def _remove_if_waiting(self, queued: _QueuedRequest[Job, Result] | None, now: float) -> None:
        """Removes a request that ends before it runs from the count and the queue; None if it was not queued yet."""
        if queued is not None and queued.is_running:
            return
        self._num_waiting -= 1
        if queued is not None:
            _observe_queue_time(queued, now)
            if queued in self._queue:
                self._queue.remove(queued)
        self._changed.set()
        self._observe_queue()

    def _observe_queue(self, num_started: int = 0, *, is_running: bool = False) -> None:
        """Tells the admission how many requests have left for compute, and whether others wait for capacity.

        They do if they wait for the model thread or for a worker process. Those that are being prepared do not.
        """
        waits_for_model = bool(self._queue) and (is_running or bool(self._running))
        self._admission.update(num_started, is_blocked=waits_for_model or self._executor.is_backlogged)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._running = await self._next_batch()
            if not batch:
                continue
            started_at, start = loop.time(), time.perf_counter()
            outcomes = await self._run(batch)
            batch_s = time.perf_counter() - start
            self._batch_s.add(batch_s, 1, self._clock())
            self._running = []
            for request, outcome in zip(batch, outcomes, strict=True):
                if request.future.done():
                    continue  # aborted meanwhile
                if isinstance(outcome, Exception):
                    request.future.set_exception(outcome)
                    continue
                queue_s = _queue_time_s(request, started_at)
                timing = BatchTiming(1000 * request.prepare_s, 1000 * queue_s, 1000 * batch_s, len(batch))
                request.future.set_result((outcome, timing))

    async def _run(self, batch: Sequence[_QueuedRequest[Job, Result]]) -> Sequence[Result | Exception]:
        """One outcome for each request of a batch."""
        jobs = [request.job for request in batch]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._model_thread, self._executor.run, jobs)
            return [outcome for _, outcome in zip(batch, outcomes, strict=True)]
        except Exception as error:  # the batcher must survive every batch
            return [error] * len(batch)

    async def _next_batch(self) -> list[_QueuedRequest[Job, Result]]:
        """The next batch. It starts when it is full, when no request is being prepared, or after the longest delay."""
        loop = asyncio.get_running_loop()
        while not self._queue:
            self._changed.clear()
            await self._changed.wait()
        due = self._queue[0].queued_at + self._max_batch_delay_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                while self._batch_may_still_fill():
                    self._changed.clear()
                    await self._changed.wait()
        return self._take_batch(loop.time())

    def _batch_may_still_fill(self) -> bool:
        """Whether the batch has room and another request is being prepared. In an idle service there is no delay."""
        has_room = sum(request.size for request in self._queue) < self._max_batch_size
        return has_room and self._num_waiting > len(self._queue) > 0

    def _take_batch(self, now: float) -> list[_QueuedRequest[Job, Result]]:
        batch: list[_QueuedRequest[Job, Result]] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].size <= self._max_batch_size):
            request = self._queue.popleft()
            if request.future.done():
                continue  # aborted in this iteration of the event loop; `submit` corrects the count
            if request.deadline <= now:
                request.future.set_exception(_deadline_exceeded())
                continue
            request.is_running = True
            self._num_waiting -= 1
            _observe_queue_time(request, now)
            size += request.size
            batch.append(request)
        self._observe_queue(len(batch), is_running=bool(batch))
        return batch
