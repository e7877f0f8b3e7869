"""Worker processes for work on bytes that cannot be trusted. Any of them can be killed, and takes nothing else along.

A thread that decodes a hostile file cannot be stopped: it holds its core, and the end of its process, for as long as
the file lasts. A process can be killed in the middle of any C code. One that crashes fails its own task alone.

Workers are forked from a server process that has imported their modules once (multiprocessing's forkserver), so that
they start in milliseconds and share the memory of what was imported. They end with the process that uses the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, Final, Generic, Self, TypeVar

from fovea import telemetry

__all__ = ["Ran", "WorkerDied", "WorkerPool", "WorkerTimeout", "end_with_parent", "preload"]

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

_PROCESSES: Final = multiprocessing.get_context("forkserver")
_PICKLE_PROTOCOL: Final = 5
_START_RETRY_S: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


class WorkerDied(Exception):
    """A worker ended by itself: it crashed, or the kernel was out of memory."""


class WorkerTimeout(Exception):
    """A task took longer than it may; its worker was killed."""


@dataclass(frozen=True, slots=True)
class Ran(Generic[Result]):
    """A result, and the event loop's time when a worker took the task and when it was done."""

    result: Result
    started_at: float
    ended_at: float


def preload(*modules: str) -> None:
    """Starts the server process, which imports these modules for all workers; returns at once."""
    forkserver.set_forkserver_preload(list(modules))
    forkserver.ensure_running()


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal when its parent ends, whatever ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _nothing() -> None:
    pass


def _serve(connection: Connection, work: Callable[[Any], Any], initialize: Callable[[], None]) -> None:
    """Life of a worker: one task after the other, until the other end of the connection is closed."""
    _end_with_service()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the user of the pool decides
    initialize()
    connection.send_bytes(b"")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            task = pickle.loads(connection.recv_bytes())  # noqa: S301  # from the process that started this one
            try:
                outcome = (True, work(task))
            except Exception as error:
                outcome = (False, error)
            connection.send_bytes(pickle.dumps(outcome, _PICKLE_PROTOCOL))


def _end_with_service() -> None:
    """Has the kernel kill this worker when the service ends, even in the middle of C code."""
    end_with_parent()
    # The server process, our parent, ends when nobody holds this file any more; a worker must not be somebody.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]


class _Worker:
    """One process and the connection to it. All but `kill` blocks."""

    def __init__(self, work: Callable[[Any], Any], initialize: Callable[[], None]) -> None:
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_serve, args=(theirs, work, initialize), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._connection.recv_bytes()
        except EOFError as error:
            raise WorkerDied("a worker process ended before its first task") from error

    def call(self, task: Any) -> Any:
        """The result of `task`, or what it raised.

        Raises:
            WorkerDied: The process ended before.
        """
        message = pickle.dumps(task, _PICKLE_PROTOCOL)
        try:
            self._connection.send_bytes(message)
            answer = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise WorkerDied("a worker process ended in the middle of its task") from error
        succeeded, value = pickle.loads(answer)  # noqa: S301  # from a process of this one's own
        if not succeeded:
            raise value
        return value

    def kill(self) -> None:
        """Ends the process now, whatever it does; a `call` in another thread raises WorkerDied."""
        self._process.kill()

    def join(self) -> None:
        """Returns when the process has ended."""
        self._process.join()


class WorkerPool(Generic[Task, Result]):
    """A fixed number of worker processes, each with one task at a time. Use as an async context manager.

    Tasks, results and exceptions are pickled. A task that is cancelled or out of time has its worker killed; another
    worker takes its place.

    Args:
        work: picklable function from a task to its result.
        size: number of workers, at least 1.
        initialize: picklable function that each worker calls once, before its first task.
    """

    def __init__(self, work: Callable[[Task], Result], *, size: int, initialize: Callable[[], None] = _nothing) -> None:
        self._work = work
        self._initialize = initialize
        self._size = size
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._workers: set[_Worker] = set()
        self._waiting: dict[object, float] = {}
        self._replacements: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="worker")
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(self._add() for _ in range(self._size)))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        for task in tuple(self._replacements):
            task.cancel()
        for worker in self._workers:
            worker.kill()
        await asyncio.gather(*(asyncio.to_thread(worker.join) for worker in self._workers))
        self._threads.shutdown(wait=False)

    @property
    def longest_wait_s(self) -> float:
        """Seconds that the task which has waited longest has waited for a worker; 0 where none waits."""
        oldest = next(iter(self._waiting.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    async def run(self, task: Task, *, timeout_s: float) -> Ran[Result]:
        """The result of `task`. Whoever came first is served first.

        Args:
            timeout_s: longest run in seconds, without the wait for a worker.

        Raises:
            WorkerTimeout: The task took longer.
            WorkerDied: Its worker crashed.
            Exception: Whatever the function raised on the task.
        """
        worker = await self._next_idle()
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        usable = False
        try:
            call = loop.run_in_executor(self._threads, worker.call, task)
            done, _ = await asyncio.wait([call], timeout=timeout_s)
            if not done:
                telemetry.FAILURES.labels("worker_timeout").inc()
                raise WorkerTimeout(f"a task took longer than {timeout_s:g} s")
            usable = not isinstance(call.exception(), WorkerDied)
            if not usable:
                telemetry.FAILURES.labels("worker_died").inc()
            return Ran(call.result(), started_at, loop.time())
        finally:
            if usable:
                self._idle.put_nowait(worker)
            else:
                self._replace(worker)

    async def _next_idle(self) -> _Worker:
        ticket = object()
        self._waiting[ticket] = time.monotonic()
        try:
            return await self._idle.get()
        finally:
            del self._waiting[ticket]

    def _replace(self, worker: _Worker) -> None:
        """Kills a worker now and starts another in the background."""
        worker.kill()
        if self._closed:
            return
        self._workers.discard(worker)
        task = asyncio.create_task(self._restart(worker))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _restart(self, worker: _Worker) -> None:
        await asyncio.to_thread(worker.join)
        while True:
            try:
                await self._add()
            except (WorkerDied, OSError):
                log.exception("a worker process did not start; trying again")
                telemetry.FAILURES.labels("worker_start").inc()
                await asyncio.sleep(_START_RETRY_S)
            else:
                return

    async def _add(self) -> None:
        worker = await asyncio.to_thread(_Worker, self._work, self._initialize)
        if self._closed:
            worker.kill()
            return
        self._workers.add(worker)
        self._idle.put_nowait(worker)
