"""Files that are read again when they change: certificates and tokens are renewed while a service runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from fovea import telemetry

__all__ = ["CredentialsError", "Watched"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class CredentialsError(ValueError):
    """A certificate, key or token file that cannot be used. For the operator: the text may hold paths."""


class Watched(Generic[T]):
    """What `load` makes of some files, made anew once one of them has changed.

    A change that cannot be used is logged once and the last good value stays: whoever writes certificate and key one
    after the other, or makes a mistake, does not take the service down. Safe to use from several threads.

    Args:
        paths: The files, links followed.
        load: Reads them.

    Raises:
        CredentialsError: They cannot be used to begin with.
    """

    def __init__(self, paths: Sequence[str], load: Callable[[], T]) -> None:
        self._paths = [Path(path) for path in paths]
        self._load = load
        self._lock = threading.Lock()
        self._seen = self._signature()  # before reading: what changes meanwhile is read again
        self._value = load()

    def get(self) -> T:
        """The value as the files are now."""
        with self._lock:
            signature = self._signature()
            if signature != self._seen:
                self._seen = signature
                try:
                    self._value = self._load()
                except CredentialsError as error:
                    telemetry.FAILURES.labels("credentials").inc()
                    log.error("keeping what was read before: %s", error)
                else:
                    log.info("read again: %s", ", ".join(path.name for path in self._paths))
            return self._value

    def _signature(self) -> list[tuple[int, int, int] | None]:
        return [_signature(path) for path in self._paths]


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
