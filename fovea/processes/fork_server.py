"""The server process that forks workers: multiprocessing's fork server, started in one of two ways.

A process that has one thread and has imported what its workers need forks the server from itself (`fork_now`). Any
other process has it started as a new interpreter, which imports the modules of the workers once (`preload`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any, Final, NoReturn

__all__ = ["close_lifeline", "fork_now", "preload"]

_SIGNALS_MODULE: Final = "fovea.processes.fork_server_preload"
_OWNER_ONLY: Final = 0o600


def preload(*modules: str) -> None:
    """Starts the fork server if it does not run, and returns at once. It imports these modules once for all workers."""
    forkserver.set_forkserver_preload([_SIGNALS_MODULE, *modules])
    forkserver.ensure_running()


def fork_now(*modules: str) -> None:
    """Forks the fork server from this process, so that workers share the memory of what it has imported.

    A fork copies the calling thread only. Call it before the process starts a thread, uses gRPC or touches a GPU. In a
    process that has another Python thread already, the server is started as by `preload`.

    Args:
        modules: Modules that the workers need. A fork server that must be started again later imports them.
    """
    if threading.active_count() > 1:
        preload(*modules)
        return
    forkserver.set_forkserver_preload([_SIGNALS_MODULE, *modules])
    resource_tracker.ensure_running()
    # The private names are those that `ForkServer.ensure_running` sets after it has spawned an interpreter.
    server: Any = forkserver._forkserver
    with socket.socket(socket.AF_UNIX) as listener:
        address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
        listener.bind(address)
        os.chmod(address, _OWNER_ONLY)
        listener.listen()
        alive_r, alive_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(alive_w)
            _serve(listener.detach(), alive_r, os.path.dirname(address))
        os.close(alive_r)
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, alive_w, pid


def _serve(listener: int, alive_r: int, folder: str) -> NoReturn:
    """Runs the fork server until every process that holds the other end of `alive_r` has ended.

    Then removes the folder of the socket, because the process that made the folder may have ended without Python's
    shutdown.
    """
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):  # see fork_server_preload
            signal.signal(number, signal.SIG_IGN)
        forkserver.main(listener, alive_r, [])
    except SystemExit:
        status = 0
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os._exit(status)


def close_lifeline() -> None:
    """Closes this worker's copy of the descriptor that keeps the fork server alive."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
