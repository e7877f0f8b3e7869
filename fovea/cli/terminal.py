"""Output to the terminal, signals, and broken pipes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

__all__ = ["BROKEN_PIPE", "INTERRUPTED", "printing", "stop_event", "write_json"]

# Exit statuses as shells report them: 128 and the number of the signal.
INTERRUPTED: Final = 128 + signal.SIGINT
BROKEN_PIPE: Final = 128 + 13


def stop_event() -> threading.Event:
    """Event that Ctrl-C, SIGTERM and the closing of the terminal set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop


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
