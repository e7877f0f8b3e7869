"""Memory that a process may still allocate."""

from __future__ import annotations

from pathlib import Path

import pytest

from fovea.processes.memory import available_memory

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"
MACHINE = 8_000_000 * 1024


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def available(tmp_path: Path) -> int | None:
    return available_memory(tmp_path / "proc", tmp_path / "cgroup")


def test_this_machine_has_some() -> None:
    found = available_memory()
    assert found is not None
    assert found > 2**20


def test_without_limits_it_is_that_of_the_machine(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", MEMINFO)
    assert available(tmp_path) == MACHINE


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", MACHINE), ("5000", 3000), ("1000", 0), (str(2**62), MACHINE), ("nonsense", MACHINE)]
)
def test_a_limit_of_version_2_counts_less_what_is_used(tmp_path: Path, limit: str, expected: int) -> None:
    write(tmp_path / "proc/meminfo", MEMINFO)
    write(tmp_path / "proc/self/cgroup", "0::/pod/container\n")
    write(tmp_path / "cgroup/pod/memory.max", limit)
    write(tmp_path / "cgroup/pod/memory.current", "2000")
    assert available(tmp_path) == expected


def test_a_limit_of_version_1_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", MEMINFO)
    write(tmp_path / "proc/self/cgroup", "5:cpuset:/\n4:memory:/docker/x\n")
    write(tmp_path / "cgroup/memory/docker/x/memory.limit_in_bytes", "9000")
    write(tmp_path / "cgroup/memory/docker/x/memory.usage_in_bytes", "500")
    assert available(tmp_path) == 8500


def test_a_system_without_procfs_says_nothing(tmp_path: Path) -> None:
    assert available(tmp_path) is None
