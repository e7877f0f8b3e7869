"""Lines of `fovea up` while services start: one for each that is ready, and on a terminal what is waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["StartProgress", "start_progress"]

# Checks of /readyz and the names of what they check. An answer of /readyz itself is the gateway's.
_STAGES: Final = {"gateway": "gateway", "encoder": "encoder service", "llm": "LLM service"}
_OPTIONAL: Final = "redis"
_NOT_YET: Final = "not serving"  # state of a service that needs nothing but time
_WIDTH: Final = max(map(len, _STAGES.values()))


class StartProgress(AbstractContextManager["StartProgress"]):
    """Progress of a start, as lines without anything that moves.

    Args:
        write: function that shows a line.
        clock: function that returns the time in seconds.
    """

    def __init__(self, write: Callable[[str], object], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._since = clock()
        self._ready: set[str] = set()

    def line(self, text: str) -> None:
        """Shows a line."""
        self._write(text)

    def show(self, checks: Mapping[str, str]) -> None:
        """Shows a line for each stage that has become ready.

        Args:
            checks: checks of `/readyz`; none while the gateway does not answer.
        """
        done = {name for name, state in checks.items() if state == "ok"} | ({"gateway"} if checks else set())
        seconds = self._clock() - self._since
        for stage, name in _STAGES.items():
            if stage in done - self._ready:
                self.line(f"{name:<{_WIDTH}}  ready after {seconds:.1f} s")
        self._ready |= done
        waiting = [
            name if checks.get(stage, _NOT_YET) == _NOT_YET else f"{name}, which is {checks[stage]}"
            for stage, name in _STAGES.items()
            if stage not in self._ready
        ]
        others = {name: state for name, state in checks.items() if name not in (*_STAGES, _OPTIONAL)}
        differing = [state for state in others.values() if state != "ok"]
        self._status(f"waiting for {', '.join(waiting or differing or ['the first answer'])} ({seconds:.0f} s)")

    def _status(self, text: str) -> None:
        """Shows what is waited for, where a line can be changed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _TerminalProgress(StartProgress):
    """The same with a line at the end that changes."""

    def __init__(self, console: Any) -> None:
        super().__init__(lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))
        self._spinner = console.status("starting")
        self._shown = ExitStack()

    def _status(self, text: str) -> None:
        self._spinner.update(text)

    def __enter__(self) -> Self:
        self._shown.enter_context(self._spinner)
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()


def start_progress() -> StartProgress:
    """Progress on standard error: with a moving line on a terminal, if rich is installed, else plain lines."""
    if sys.stderr.isatty():
        try:
            from rich.console import Console
        except ImportError:
            pass
        else:
            return _TerminalProgress(Console(stderr=True))
    return StartProgress(lambda text: print(text, file=sys.stderr, flush=True))
