"""Memory available to this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["available_memory"]

_CGROUPS: Final = Path("/sys/fs/cgroup")


def available_memory(proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> int | None:
    """Bytes that can be allocated without swapping: of the machine, or of the cgroup where those are fewer.

    Args:
        proc: Mount point of procfs.
        cgroups: Mount point of cgroups of version 2, or of version 1 with the controller `memory`.

    Returns:
        Bytes; None where the system does not say.
    """
    return min((*_of_machine(proc), *_of_groups(proc, cgroups)), default=None)


def _of_machine(proc: Path) -> Iterator[int]:
    try:
        lines = (proc / "meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) * 1024


def _of_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Limit less usage of this process's cgroup and of its ancestors."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = PurePosixPath(path.lstrip("/"))
        for part in (inside, *inside.parents):
            if controllers == "":
                yield from _unused(cgroups / part, "memory.max", "memory.current")
            elif "memory" in controllers.split(","):
                yield from _unused(cgroups / "memory" / part, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _unused(group: Path, limit: str, usage: str) -> Iterator[int]:
    try:
        limit_bytes = int((group / limit).read_text(encoding="utf-8"))
        yield max(0, limit_bytes - int((group / usage).read_text(encoding="utf-8")))
    except (OSError, ValueError):  # the root has no such file, and the limit is "max" where there is none
        return
