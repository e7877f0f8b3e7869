"""Tasks of the worker processes of tests, in a module that they can import."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["HELD_S", "NeedsTwo", "do", "initialize", "shared"]

HELD_S = 600.0
_initialized = False
shared = ""
"""A value that a test sets before it forks."""


class NeedsTwo(Exception):
    """An error that pickle cannot restore, as its constructor needs two arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def initialize() -> None:
    """Sets the value that the task "initialized" returns."""
    global _initialized
    _initialized = True


def do(task: tuple[str, Any]) -> Any:
    """Runs a task by its verb."""
    verb, value = task
    if verb == "echo":
        return value
    if verb == "pid":
        return os.getpid()
    if verb == "initialized":
        return _initialized
    if verb == "shared":
        return shared
    if verb == "touch and hold":
        Path(value).touch()
        time.sleep(HELD_S)
    if verb == "touch and echo":
        Path(value).touch()
        return value
    if verb == "refuse":
        raise ValueError(f"refused {len(value)} bytes")
    if verb == "refuse unpicklably":
        raise NeedsTwo("a", "b")
    if verb == "answer unpicklably":
        return lambda: None
    if verb == "crash":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    sys.exit(f"what is {verb}?")
