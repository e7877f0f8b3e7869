"""Caps on the CPU of processes, all threads together: a quota of the scheduler (cgroup v1), else our own governor."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

__all__ = ["CpuCaps", "Governor", "Quota", "choose", "cpu_seconds", "share_under"]

_ROOT: Final = Path("/sys/fs/cgroup/cpu")
# Short, so that a capped process runs evenly: at 0.3 cores 6 of every 20 ms.
_PERIOD_S: Final = 0.02
_PROBE_S: Final = 2.0
_TOLERANCE: Final = 0.1
# Two threads that hash: hashlib releases the interpreter's lock, so together they use two cores.
_BUSY: Final = """
import hashlib, threading
def burn():
    while True: hashlib.sha256(bytes(1_000_000))
threading.Thread(target=burn).start()
burn()
"""


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all its threads together: its clock, see clock_getcpuclockid(3).

    Raises:
        OSError: No process has this id.
    """
    return time.clock_gettime((~pid << 3) | 2)


class CpuCaps(Protocol):
    """Caps that hold until the context ends."""

    @property
    def name(self) -> str:
        """Name of the mechanism."""
        ...

    def cap(self, pid: int, cores: float) -> None:
        """Limits a process to some cores, or to a share of one, from now on."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Quota:
    """A control group for each process; needs root and cgroup v1."""

    name: Final = "cgroup v1 cpu.cfs_quota_us"
    _numbers = itertools.count()

    def __init__(self) -> None:
        self._groups: list[Path] = []

    def cap(self, pid: int, cores: float) -> None:
        """See `CpuCaps`.

        Raises:
            OSError: This machine has no such groups, or this user may not make them.
        """
        group = _ROOT / f"fovea-{os.getpid()}-{next(self._numbers)}"
        group.mkdir()
        self._groups.append(group)
        (group / "cpu.cfs_period_us").write_text(str(round(_PERIOD_S * 1e6)))
        (group / "cpu.cfs_quota_us").write_text(str(round(cores * _PERIOD_S * 1e6)))
        (group / "cgroup.procs").write_text(str(pid))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for group in self._groups:
            for pid in (group / "cgroup.procs").read_text().split():
                (_ROOT / "cgroup.procs").write_text(pid)
            group.rmdir()
        self._groups.clear()


class Governor:
    """Stops a process (SIGSTOP) that has used more than its share, and continues it (SIGCONT) when its share allows."""

    name: Final = "SIGSTOP and SIGCONT by a governor"
    _TICK_S: Final = 0.005

    def __init__(self) -> None:
        self._caps: dict[int, tuple[float, float, float]] = {}  # cores, and wall and CPU time at the start
        self._stopped: set[int] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="governor", daemon=True)

    def cap(self, pid: int, cores: float) -> None:
        """See `CpuCaps`."""
        self._caps[pid] = cores, time.monotonic(), cpu_seconds(pid)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._TICK_S):
            for pid, allowance in list(self._caps.items()):
                try:
                    self._govern(pid, *allowance)
                except OSError:  # the process has ended
                    self._caps.pop(pid, None)
                    self._stopped.discard(pid)
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _govern(self, pid: int, cores: float, since: float, used_then: float) -> None:
        now, used = time.monotonic(), cpu_seconds(pid)
        left = cores * (now - since) - (used - used_then)
        if left > cores * _PERIOD_S:  # unused time does not add up
            self._caps[pid] = cores, now - _PERIOD_S, used
        if left < 0 and pid not in self._stopped:
            os.kill(pid, signal.SIGSTOP)
            self._stopped.add(pid)
        elif left > 0 and pid in self._stopped:
            os.kill(pid, signal.SIGCONT)
            self._stopped.discard(pid)


def share_under(caps: CpuCaps, cores: float, seconds: float = _PROBE_S) -> float:
    """The cores that a process of two busy threads gets under a cap."""
    busy = subprocess.Popen([sys.executable, "-c", _BUSY])
    try:
        caps.cap(busy.pid, cores)
        time.sleep(seconds / 4)
        start, used = time.monotonic(), cpu_seconds(busy.pid)
        time.sleep(seconds)
        return (cpu_seconds(busy.pid) - used) / (time.monotonic() - start)
    finally:
        busy.kill()
        busy.wait()


def choose(cores: float) -> tuple[CpuCaps, float]:
    """The first mechanism that holds a process of two busy threads to `cores`, and the cores that the process got.

    It may get less, down to half: on a busy machine a process does not reach its cap.

    Raises:
        RuntimeError: No mechanism works on this machine.
    """
    for mechanism in (Quota, Governor):
        caps: CpuCaps = mechanism()
        try:
            with mechanism() as trial:
                share = share_under(trial, cores)
        except OSError:
            continue
        if cores / 2 < share <= (1 + _TOLERANCE) * cores:
            return caps, share
    raise RuntimeError(f"no way to cap a process at {cores:g} cores works on this machine")
