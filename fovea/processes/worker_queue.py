"""Queue of a worker pool: which task gets an idle worker, so that all running tasks fit into the memory together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from fovea.processes.worker_process import Worker

__all__ = ["WorkerQueue"]

_MAX_OVERTAKEN: Final = 16


@dataclass(eq=False, slots=True)
class _Waiting:
    """A task without a worker.

    Attributes:
        num_bytes: Memory of the task in bytes.
        worker: Future of its worker.
        since: Time of its arrival on the monotonic clock, in seconds.
        overtaken: Number of later tasks that got a worker before it.
    """

    num_bytes: int
    worker: asyncio.Future[Worker]
    since: float = field(default_factory=time.monotonic)
    overtaken: int = 0


class WorkerQueue:
    """Idle workers, tasks that wait for one, and the memory of the tasks that run.

    Tasks get workers in the order of their arrival. A task whose memory is not free yet is overtaken by later ones that
    fit, because a worker would be idle otherwise; but by 16 at most, so a large task waits for a bounded number of
    small ones. A small task waits behind a large one only after that, and only until the running tasks leave enough
    memory for the large one.

    Args:
        max_bytes: Memory of all running tasks together, in bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._free_bytes = max_bytes
        self._held: dict[Worker, int] = {}
        self._idle: deque[Worker] = deque()
        self._waiting: deque[_Waiting] = deque()

    @property
    def num_waiting(self) -> int:
        """Number of tasks without a worker."""
        return len(self._waiting)

    @property
    def longest_wait_s(self) -> float:
        """Queue time in seconds of the task that has waited longest; 0 where no task waits."""
        return time.monotonic() - self._waiting[0].since if self._waiting else 0.0

    async def take(self, num_bytes: int) -> Worker:
        """A worker for a task, as soon as one is idle and the task's memory is free.

        Args:
            num_bytes: Memory of the task in bytes, at most `max_bytes`.
        """
        if num_bytes > self.max_bytes:
            raise ValueError(f"a task of {num_bytes} bytes; {self.max_bytes} are there for all")
        waiting = _Waiting(num_bytes, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._assign()
        try:
            return await waiting.worker
        except asyncio.CancelledError:
            future = waiting.worker
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result())
            raise
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                self._assign()  # the task may have been the one that others waited behind

    def give_back(self, worker: Worker) -> None:
        """Makes a worker idle that was started or has finished its task."""
        self._idle.append(worker)
        self.release(worker)

    def release(self, worker: Worker) -> None:
        """Frees the memory of a worker's task: it is done, or its process has ended."""
        self._free_bytes += self._held.pop(worker, 0)
        self._assign()

    def fail_all(self, error: Exception) -> None:
        """Fails all tasks that wait."""
        for waiting in self._waiting:
            if not waiting.worker.done():
                waiting.worker.set_exception(error)

    def _assign(self) -> None:
        """Gives idle workers to tasks that may run."""
        while self._idle and (waiting := self._next()) is not None:
            worker = self._idle.popleft()
            self._held[worker] = waiting.num_bytes
            self._free_bytes -= waiting.num_bytes
            waiting.worker.set_result(worker)

    def _next(self) -> _Waiting | None:
        """The task that runs next, out of the queue; None where none may run."""
        passed: list[_Waiting] = []
        for waiting in tuple(self._waiting):
            if waiting.worker.done():
                self._waiting.remove(waiting)
            elif waiting.num_bytes <= self._free_bytes:
                self._waiting.remove(waiting)
                for task in passed:
                    task.overtaken += 1
                return waiting
            elif waiting.overtaken >= _MAX_OVERTAKEN:
                return None
            else:
                passed.append(waiting)
        return None
