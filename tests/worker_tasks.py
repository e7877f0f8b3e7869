"""What the workers of tests do: functions that a worker process can import."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["HELD_S", "NeedsTwo", "do", "initialize"]

HELD_S = 600.0
_initialized = False


class NeedsTwo(Exception):
    """Cannot be made anew from its only argument, as pickle tries."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def initialize() -> None:
    """Sets what the task "initialized" asks for."""
    global _initialized
    _initialized = True


def do(task: tuple[str, Any]) -> Any:
    """The task's verb says what."""
    verb, value = task
    if verb == "echo":
        return value
    if verb == "pid":
        return os.getpid()
    if verb == "initialized":
        return _initialized
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
