"""Output to the terminal, signals, and broken pipes."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO

__all__ = ["BROKEN_PIPE", "INTERRUPTED", "StopSignal", "printing", "write_json"]

# Exit statuses as shells report them: 128 and the number of the signal.
INTERRUPTED: Final = 128 + signal.SIGINT
BROKEN_PIPE: Final = 128 + 13


class StopSignal:
    """Request to stop by Ctrl-C, SIGTERM or the closing of the terminal.

    The handler takes no lock. A `threading.Event` does: its handler would wait forever for a lock that the interrupted
    main thread holds.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)

    def is_set(self) -> bool:
        """Whether the process was asked to stop."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Whether the process was asked to stop, at the latest after `timeout_s` seconds."""
        if not self._is_set:
            select.select([self._reader], [], [], timeout_s)
        return self._is_set

    def _stop(self, *_: object) -> None:
        self._is_set = True
        with suppress(BlockingIOError):  # the pipe is full, so whoever waits is woken already
            os.write(self._writer, b"\0")


@contextmanager
def printing() -> Iterator[None]:
    """Context in which any character can be printed on any terminal. All output is flushed at its end.

    Raises:
        BrokenPipeError: the reader has closed the pipe; nothing more is printed, even when the process ends.
    """
    for stream in (sys.stdout, sys.stderr):
        _tolerate(stream)
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _tolerate(stream: TextIO | None) -> None:
    """Makes characters that the terminal's encoding lacks print as question marks instead of raising an error."""
    reconfigure = getattr(stream, "reconfigure", None)
    if stream is None or reconfigure is None or stream.errors == "backslashreplace":
        return
    # In a locale without an encoding Python sets an error handler that passes bytes of file names only.
    if stream.errors == "strict" or not _is_utf8(stream):
        reconfigure(errors="replace")


def _is_utf8(stream: TextIO | None) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"


def write_json(value: Any) -> None:
    """Prints a value as indented JSON, in ASCII where the terminal's encoding is not UTF-8."""
    print(json.dumps(value, indent=2, ensure_ascii=not _is_utf8(sys.stdout)))
