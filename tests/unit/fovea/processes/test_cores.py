"""Cores of a process, and threads of a model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fovea.processes.cores import available_cores, model_threads


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def cores(tmp_path: Path) -> int:
    return available_cores(tmp_path / "proc", tmp_path / "cgroup")


def test_this_process_has_at_least_one_core_and_no_more_than_its_affinity() -> None:
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 16), ("200000 100000", 2), ("250000 100000", 3), ("50000 100000", 1), ("6400000 100000", 16)],
)
def test_a_quota_of_version_2_counts_rounded_up(tmp_path: Path, quota: str, expected: int) -> None:
    write(tmp_path / "proc/cgroup", "0::/pod/container\n")
    write(tmp_path / "cgroup/pod/container/cpu.max", quota)
    assert cores(tmp_path) == expected


@pytest.mark.usefixtures("sixteen_cores")
def test_the_quota_of_a_group_above_counts_too(tmp_path: Path) -> None:
    write(tmp_path / "proc/cgroup", "0::/pod/container\n")
    write(tmp_path / "cgroup/pod/container/cpu.max", "max 100000")
    write(tmp_path / "cgroup/pod/cpu.max", "300000 100000")
    assert cores(tmp_path) == 3


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(("quota", "expected"), [("-1", 16), ("400000", 4)])
def test_a_quota_of_version_1_counts(tmp_path: Path, quota: str, expected: int) -> None:
    write(tmp_path / "proc/cgroup", "5:cpuset:/\n4:cpu,cpuacct:/docker/x\n")
    write(tmp_path / "cgroup/cpu/docker/x/cpu.cfs_quota_us", quota)
    write(tmp_path / "cgroup/cpu/docker/x/cpu.cfs_period_us", "100000")
    assert cores(tmp_path) == expected


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize("text", ["", "nonsense"])
def test_without_cgroups_the_affinity_counts(tmp_path: Path, text: str) -> None:
    if text:
        write(tmp_path / "proc/cgroup", "0::/\n")
        write(tmp_path / "cgroup/cpu.max", text)
    assert cores(tmp_path) == 16


@pytest.mark.parametrize(
    ("num_parameters", "available", "threads"),
    [
        (3_500_000, 2, 1),  # the shipped model: one thread is faster than two
        (3_500_000, 16, 1),
        (39_000_000, 2, 2),
        (39_000_000, 16, 4),
        (304_000_000, 16, 16),  # ViT-L: all cores, as ever
        (6_700_000_000, 64, 64),
        (0, 4, 1),
    ],
)
def test_a_large_model_gets_all_cores_and_a_small_one_no_more_than_it_can_use(
    num_parameters: int, available: int, threads: int
) -> None:
    assert model_threads(num_parameters, available) == threads
