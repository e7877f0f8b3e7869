from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.scaling import cpu_caps
from benchmarks.scaling.cpu_caps import CpuCaps, Governor, Quota, choose, cpu_seconds, share_under

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("way", [Quota, Governor])
def test_a_process_of_two_busy_threads_gets_no_more_than_its_cap(way: type[CpuCaps]) -> None:
    with way() as caps:
        try:
            share = share_under(caps, 0.2, seconds=1.0)
        except OSError:
            pytest.skip("this machine has no control groups of cgroup v1 that this user may make")
    assert 0 < share < 0.25


def test_where_no_group_can_be_made_the_governor_takes_over(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(cpu_caps, "_ROOT", cpu_caps.Path("/proc/nowhere"))
    monkeypatch.setattr(cpu_caps, "_PROBE_S", 0.5)
    caps, share = choose(0.1)
    assert isinstance(caps, Governor)
    assert share < 0.15


@pytest.mark.parametrize("way", [Quota, Governor])
def test_after_the_caps_a_process_runs_on(way: type[CpuCaps]) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input(); print('still here')"], stdin=-1, stdout=-1, text=True)
    try:
        with way() as caps:
            try:
                caps.cap(process.pid, 0.05)
            except OSError:
                pytest.skip("this machine has no control groups of cgroup v1 that this user may make")
        assert process.communicate("\n", timeout=60)[0] == "still here\n"
    finally:
        process.kill()
        process.wait()


def test_the_time_of_a_process_that_has_ended_cannot_be_asked() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(OSError, match="Invalid argument"):
        cpu_seconds(process.pid)
