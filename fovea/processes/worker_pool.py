"""Pool of worker processes for untrusted input: a worker can be killed in the middle of its task.

A thread that decodes a hostile file cannot be stopped. Until the decoding ends, the thread occupies a core and prevents
its process from ending. A process can be killed even in the middle of C code. A crash fails only the task of that
process.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar, TypeVarTuple

from fovea import telemetry
from fovea.processes.worker_process import Outcome, Worker
from fovea.processes.worker_queue import WorkerQueue

__all__ = ["Interval", "PoolClosed", "WorkerPool", "WorkerTimeout"]

log = logging.getLogger(__name__)

Task = TypeVarTuple("Task")
Result = TypeVar("Result")

Interval: TypeAlias = tuple[float, float]
"""Event-loop times in seconds at which a worker took a task, and at which the task was done."""

_START_RETRY_S: Final = 1.0
# Time that a cancelled task gets to finish. Waiting for a task that is almost done costs less than a new worker.
_CANCEL_GRACE_S: Final = 0.1


class WorkerTimeout(Exception):
    """A task exceeded its time limit, and its worker was killed."""


class PoolClosed(Exception):
    """The pool accepts no more tasks."""


def _no_initialization() -> None:
    pass


class WorkerPool(Generic[Result, *Task]):
    """Pool of a fixed number of worker processes, each with one task at a time.

    A pool is an async context manager and can be entered only once.

    Tasks, results and exceptions are pickled. When a task is cancelled or exceeds its time limit, its worker is killed
    and replaced.

    Args:
        work: picklable function from the arguments of a task to its result.
        size: number of workers, at least 1.
        initialize: picklable function that each worker calls once, before its first task.
        max_bytes: memory of all running tasks together, in bytes, as `run` is told it; see `WorkerQueue`.
    """

    def __init__(
        self,
        work: Callable[[*Task], Result],
        *,
        size: int,
        initialize: Callable[[], None] = _no_initialization,
        max_bytes: int = sys.maxsize,
    ) -> None:
        self._new_worker = functools.partial(Worker, work, initialize)
        self._size = size
        self._workers: set[Worker] = set()
        self._queue = WorkerQueue(max_bytes)
        self._background: set[asyncio.Task[None]] = set()
        self._calls = ThreadPoolExecutor(size, thread_name_prefix="worker-call")
        self._starts = ThreadPoolExecutor(size, thread_name_prefix="worker-start")
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(self._start_worker() for _ in range(self._size)))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        for task in tuple(self._background):
            task.cancel()
        self._queue.fail_all(PoolClosed())
        loop, workers = asyncio.get_running_loop(), tuple(self._workers)
        for worker in workers:
            worker.kill()
        await asyncio.gather(*(loop.run_in_executor(None, worker.join) for worker in workers))
        self._calls.shutdown(wait=False)
        self._starts.shutdown(wait=False)

    @property
    def num_workers(self) -> int:
        """Number of workers, busy or idle."""
        return len(self._workers)

    @property
    def max_bytes(self) -> int:
        """Memory of all running tasks together, in bytes."""
        return self._queue.max_bytes

    @property
    def num_waiting(self) -> int:
        """Number of tasks that wait for a worker, or for the memory that they take."""
        return self._queue.num_waiting

    @property
    def longest_wait_s(self) -> float:
        """Queue time in seconds of the task that has waited longest; 0 where no task waits."""
        return self._queue.longest_wait_s

    async def run(self, *task: *Task, timeout_s: float, num_bytes: int = 0) -> tuple[Result, Interval]:
        """Result of `task`, and when it ran. Tasks start in the order of their arrival, see `WorkerQueue`.

        Args:
            task: arguments of `work`, picklable.
            timeout_s: time limit of the run in seconds, queue time not included.
            num_bytes: memory that the task takes in bytes, at most `max_bytes`.

        Raises:
            WorkerTimeout: the task took longer than `timeout_s`.
            WorkerDied: the worker ended in the middle of the task.
            PoolClosed: the pool is closed, or was closed while the task waited or ran.
            Exception: any exception that `work` raised.
        """
        succeeded, value, started_at = await self._run(task, timeout_s, num_bytes)
        if succeeded:
            return value, (started_at, asyncio.get_running_loop().time())
        try:
            raise value
        finally:
            # The exception's traceback refers to this frame. The reference cycle would keep the data alive.
            del value, task

    async def _run(self, task: tuple[*Task], timeout_s: float, num_bytes: int) -> tuple[bool, Any, float]:
        worker = await self._take(num_bytes)
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        call = loop.run_in_executor(self._calls, worker.call, task)
        call.add_done_callback(_retrieve_exception)
        try:
            done, _ = await asyncio.wait([call], timeout=timeout_s)
        except asyncio.CancelledError:
            self._in_background(self._finish_or_replace(worker, call))
            raise
        if not done:
            self._replace(worker)
            telemetry.count_failure(telemetry.FailureKind.WORKER_TIMEOUT)
            raise WorkerTimeout(f"a task took longer than {timeout_s:g} s")
        return *self._outcome(worker, call), started_at

    def _outcome(self, worker: Worker, call: asyncio.Future[Outcome]) -> Outcome:
        """Outcome of a finished call. A worker is used again only if it returned an outcome."""
        error = call.exception()
        if error is None:
            self._queue.give_back(worker)
            return call.result()
        self._replace(worker)
        if self._closed:
            raise PoolClosed
        telemetry.count_failure(telemetry.FailureKind.WORKER_DIED)
        raise error

    async def _take(self, num_bytes: int) -> Worker:
        """A worker that is alive."""
        while True:
            if self._closed:
                raise PoolClosed
            worker = await self._queue.take(num_bytes)
            if worker.is_alive:
                return worker
            self._replace(worker)

    async def _finish_or_replace(self, worker: Worker, call: asyncio.Future[Outcome]) -> None:
        """Waits briefly for the task of a cancelled caller. Replaces the worker if the task does not finish."""
        done, _ = await asyncio.wait([call], timeout=_CANCEL_GRACE_S)
        if done and call.exception() is None:
            self._queue.give_back(worker)
        else:
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        """Kills a worker now and starts another in the background."""
        worker.kill()
        if not self._closed:
            self._in_background(self._start_in_place_of(worker))

    async def _start_in_place_of(self, worker: Worker) -> None:
        self._workers.discard(worker)
        await asyncio.get_running_loop().run_in_executor(self._starts, worker.join)
        self._queue.release(worker)  # only now: until its process ends, the memory is in use
        while True:
            try:
                await self._start_worker()
            except Exception:  # a shortage of processes or memory may be temporary
                log.exception("a worker process did not start; trying again")
                telemetry.count_failure(telemetry.FailureKind.WORKER_START)
                await asyncio.sleep(_START_RETRY_S)
            else:
                return

    async def _start_worker(self) -> None:
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(self._starts, self._new_worker)
        starting.add_done_callback(self._register)
        worker = await asyncio.shield(starting)
        await loop.run_in_executor(self._starts, worker.wait_ready)
        self._queue.give_back(worker)

    def _register(self, starting: asyncio.Future[Worker]) -> None:
        """Registers a worker as soon as its process runs, so that closing the pool kills it."""
        if starting.cancelled() or starting.exception() is not None:
            return
        worker = starting.result()
        if self._closed:
            worker.kill()
        else:
            self._workers.add(worker)

    def _in_background(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _retrieve_exception(call: asyncio.Future[Any]) -> None:
    """Retrieves the exception of a call whose caller may have been cancelled. Otherwise asyncio would log it."""
    if not call.cancelled():
        call.exception()
