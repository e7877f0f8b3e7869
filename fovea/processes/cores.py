"""Cores available to this process, and threads for a forward of a model."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["available_cores", "model_threads"]

_CGROUPS: Final = Path("/sys/fs/cgroup")
# Waking a thread and waiting for it costs tens of microseconds in each operation of a layer. With fewer parameters per
# thread the thread saves less than that (docs/performance.md).
_PARAMETERS_PER_THREAD: Final = 8_000_000


def available_cores(proc: Path = Path("/proc/self"), cgroups: Path = _CGROUPS) -> int:
    """Number of cores of this process: its CPU affinity, or its cgroup's quota, rounded up, where that is less.

    Args:
        proc: directory of this process in procfs.
        cgroups: mount point of cgroups of version 2, or of version 1 with the controller `cpu`.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_quotas(proc, cgroups), default=math.inf)
    return affinity if quota == math.inf else max(1, min(affinity, math.ceil(quota)))


def model_threads(num_parameters: int, cores: int) -> int:
    """Number of threads for a forward of a model: one per core, but fewer for a small model."""
    return max(1, min(cores, num_parameters // _PARAMETERS_PER_THREAD))


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """Quotas in cores of this process's cgroup and of its ancestors."""
    try:
        lines = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _walk(cgroups, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            yield from _walk(cgroups / "cpu", path, _quota_v1)


def _walk(root: Path, path: str, read: Callable[[Path], float | None]) -> Iterator[float]:
    inside = PurePosixPath(path.lstrip("/"))
    for part in (inside, *inside.parents):
        quota = read(root / part)
        if quota is not None:
            yield quota


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # the root has no such file, and the quota is "max" where there is none
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period = int((group / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
