"""One worker process: the code that runs in it, and its handle in the service.

Workers are forked from the fork server (`fork_server.py`), which has imported their modules once. They start in
milliseconds and share the memory of the imported modules.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import pickle
import signal
import sys
import traceback
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from fovea.processes.fork_server import close_lifeline

__all__ = ["Outcome", "Worker", "WorkerDied", "end_with_parent"]

Outcome = tuple[bool, Any]
"""Whether a task succeeded, and its result or else its exception."""

_PROCESSES: Final = multiprocessing.get_context("forkserver")
_PICKLE_PROTOCOL: Final = 5
_START_TIMEOUT_S: Final = 300.0
_PR_SET_PDEATHSIG: Final = 1
_started: Final[weakref.WeakSet[Worker]] = weakref.WeakSet()


class WorkerDied(Exception):
    """A worker that ended by itself.

    Attributes:
        exit_code: exit status of the process, or minus the signal that ended it; None for unknown.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    @property
    def is_crash(self) -> bool:
        """Whether the work crashed the process. SIGKILL is no crash: the kernel sends it when memory is short."""
        crashes = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
        return self.exit_code is not None and -self.exit_code in crashes


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Sets the signal that the kernel sends to this process when its parent ends. Has no effect outside Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


class Worker:
    """Handle of a worker process. Every method except `kill` blocks.

    Args:
        work: picklable function from the arguments of a task to its result.
        initialize: picklable function that the worker calls once, before its first task.

    Raises:
        WorkerDied: the process cannot be started.
    """

    def __init__(self, work: Callable[..., Any], initialize: Callable[[], None]) -> None:
        self._connection, worker_end = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_run_worker, args=(worker_end, work, initialize), daemon=True)
        try:
            self._process.start()
        except (EOFError, OSError) as error:
            self._connection.close()
            raise WorkerDied("a worker process cannot be started") from error
        finally:
            worker_end.close()
        _started.add(self)

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.exitcode is None

    def wait_ready(self) -> None:
        """Waits until the worker is ready for its first task.

        Raises:
            WorkerDied: the process has ended, or is not ready after five minutes.
        """
        try:
            if self._connection.poll(_START_TIMEOUT_S):
                self._connection.recv_bytes()
                return
        except (EOFError, OSError):
            pass
        raise WorkerDied("a worker process did not become ready", self._process.exitcode)

    def call(self, task: tuple[Any, ...]) -> Outcome:
        """Outcome of `task`.

        Raises:
            WorkerDied: the process ended in the middle of the task.
        """
        try:
            self._connection.send_bytes(pickle.dumps(task, _PICKLE_PROTOCOL))
            message = self._connection.recv_bytes()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerDied("a worker process ended in the middle of a task", self._process.exitcode) from None
        outcome: Outcome = pickle.loads(message)  # noqa: S301  # from a process that this one started
        return outcome

    def kill(self) -> None:
        """Kills the process; a `call` in another thread then raises WorkerDied."""
        if self.is_alive:  # the id of an ended process may already belong to another one
            self._process.kill()

    def join(self) -> None:
        """Waits until the process has ended, and closes its connection."""
        self._process.join()
        self._connection.close()


@atexit.register
def _kill_all() -> None:
    """Kills all workers when an interpreter ends: multiprocessing would wait for them, and they ignore SIGTERM.

    A service ends without the interpreter's shutdown (`run_process`); its workers end with their parent.
    """
    for worker in tuple(_started):
        worker.kill()


def _run_worker(connection: Connection, work: Callable[..., Any], initialize: Callable[[], None]) -> None:
    """Main function of a worker: one task after the other, until the other end of the connection is closed."""
    _end_with_service()
    initialize()
    connection.send_bytes(b"")
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send_bytes(_outcome(work, connection.recv_bytes()))


def _end_with_service() -> None:
    """Makes the kernel kill this worker when the service ends, even inside C code."""
    end_with_parent()
    close_lifeline()  # the parent is the fork server, which ends when the service, too, has closed its copy


def _outcome(work: Callable[..., Any], message: bytes) -> bytes:
    """Pickled `Outcome` of a task. A RuntimeError replaces an exception that cannot be pickled."""
    try:
        return pickle.dumps((True, work(*pickle.loads(message))), _PICKLE_PROTOCOL)  # noqa: S301  # from the service
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        try:
            failed = pickle.dumps((False, error), _PICKLE_PROTOCOL)
            pickle.loads(failed)  # noqa: S301  # of this process; some exceptions cannot be unpickled
        except Exception:
            failed = pickle.dumps((False, RuntimeError(traceback.format_exc())), _PICKLE_PROTOCOL)
        return failed
