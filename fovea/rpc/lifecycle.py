"""Parts of the life of a GPU service: the stop signal, and loading while the server already answers health checks.

A load runs on a daemon thread, so a signal ends the process at once instead of after gigabytes of weights.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

__all__ = ["load_in_background", "run_process", "stop_signal", "wait_unless_stopped"]

T = TypeVar("T")


def stop_signal() -> asyncio.Event:
    """Event that SIGTERM and SIGINT set. Call it inside the running event loop."""
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


def load_in_background(load: Callable[[], T]) -> asyncio.Future[T]:
    """Future of the running event loop with the result or exception of `load`, which runs on a daemon thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # a signal has closed the loop before the load was done
            try:
                loaded = load()
            except Exception as error:
                loop.call_soon_threadsafe(future.set_exception, error)
            else:
                loop.call_soon_threadsafe(future.set_result, loaded)

    threading.Thread(target=run, name="load", daemon=True).start()
    return future


async def wait_unless_stopped(future: asyncio.Future[Any], stopped: asyncio.Future[Any]) -> bool:
    """Waits for `future`, but not beyond the stop of the service.

    Args:
        future: step of the start, such as a load.
        stopped: future that is done once the service is to stop.

    Returns:
        Whether `future` is done; False where the service is to stop first.
    """
    await asyncio.wait([stopped, future], return_when=asyncio.FIRST_COMPLETED)
    return future.done()


def run_process(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` and ends the process with the status that it returns or raises, without the interpreter's shutdown.

    The shutdown aborts under a load that is still inside torch's C++ code. After a refused checkpoint it may also never
    end: gRPC joins its poller thread in a loop, and that thread is gone by then.
    """
    try:
        status = main() or 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
