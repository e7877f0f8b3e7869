"""Loading a model behind an open door: health answers meanwhile, and a signal need not wait for gigabytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["end_while_loading", "load_in_background"]

T = TypeVar("T")

_LOADER: Final = "load"


def load_in_background(load: Callable[[], T]) -> asyncio.Future[T]:
    """Runs `load` on a daemon thread; the future, of the running event loop, holds what it returns or raises."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: a signal came first
            try:
                loaded = load()
            except Exception as error:
                loop.call_soon_threadsafe(future.set_exception, error)
            else:
                loop.call_soon_threadsafe(future.set_result, loaded)

    threading.Thread(target=run, name=_LOADER, daemon=True).start()
    return future


def end_while_loading(status: int) -> None:
    """Ends the process at once if a load is still under way; else returns. Call it last in `main`.

    A thread inside torch's C++ would abort an interpreter that shuts down under it.
    """
    if any(thread.name == _LOADER for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(status)
