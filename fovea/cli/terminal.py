"""What is printed where, signals, and the end of a command that nobody reads any more."""

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

# As shells say it of other programs: 128 and the number of the signal.
INTERRUPTED: Final = 128 + signal.SIGINT
BROKEN_PIPE: Final = 128 + 13


def stop_event() -> threading.Event:
    """Set by Ctrl-C, SIGTERM and the closing of the terminal."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop


@contextmanager
def printing() -> Iterator[None]:
    """Prints every character on any terminal, and all of it before the context ends.

    Raises:
        BrokenPipeError: The reader has gone; nothing more is printed, not at the process's end either.
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
    """Letters that the terminal's encoding lacks become question marks instead of an error."""
    reconfigure = getattr(stream, "reconfigure", None)
    if stream is None or reconfigure is None or stream.errors == "backslashreplace":
        return
    # Python's own answer to a locale without an encoding: bytes of file names pass, other letters do not.
    if stream.errors == "strict" or not _is_utf8(stream):
        reconfigure(errors="replace")


def _is_utf8(stream: TextIO | None) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"


def write_json(value: Any) -> None:
    """An object, indented; with escapes where the terminal's encoding is not UTF-8."""
    print(json.dumps(value, indent=2, ensure_ascii=not _is_utf8(sys.stdout)))
