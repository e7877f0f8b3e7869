"""The `fovea` command: one file for each subcommand; shared code is in `options`, `values`, `media` and `parsing`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

__all__ = ["main"]

_INTERRUPTED: Final = 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `fovea` command; see `fovea.cli.program.main`, which is imported here."""
    with _ended_by_interrupt():
        from fovea.cli.program import main as run
    return run(argv)


@contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Context in which Ctrl-C ends the process at once, because nothing has begun that is to be cleaned up.

    A KeyboardInterrupt would be raised in the middle of an import, whose modules print or hide it.
    """
    handles = threading.current_thread() is threading.main_thread()  # no other thread may set a handler
    if not handles or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # such as one that ignores it
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
