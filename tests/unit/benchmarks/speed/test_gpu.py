"""The one call that measures everything on a GPU, in its short form on the CPU, and the commands that only it runs."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from benchmarks.speed import device_choices, start

ROOT = Path(__file__).parents[4]
SCRIPT = ROOT / "benchmarks" / "speed" / "gpu.sh"


def script(out: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "OUT": str(out), "PYTHON": sys.executable, **environment}
    return subprocess.run(["bash", str(SCRIPT), *words], env=variables, capture_output=True, text=True)


def _phases(tmp_path: Path) -> list[list[str]]:
    """Words of each command that the script runs, by a Python that only writes them down."""
    recorder, calls = tmp_path / "python", tmp_path / "calls"
    recorder.write_text(f'#!/bin/sh\n[ "$1" = -m ] && echo "$*" >> {calls}\nexit 0\n')
    recorder.chmod(0o755)
    out = tmp_path / "out"
    done = script(out, "--smoke", PYTHON=str(recorder))
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "results.tar.gz"]
    assert str(ROOT) not in (out / "log.txt").read_text()
    return [line.split()[1:] for line in calls.read_text().splitlines()]


@pytest.mark.slow
def test_every_phase_runs_on_the_cpu_in_its_short_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phases, results = _phases(tmp_path), tmp_path / "results"
    assert phases[0][0] == "benchmarks.golden"
    for number, (module, *words) in enumerate(phases):
        # In this process, which has imported torch already.
        if "--out" in words:
            words[words.index("--out") + 1] = str(results / str(number))
        if "--checkpoint" in words:
            words[words.index("--checkpoint") + 1] = str(tmp_path / "checkpoints")
        with contextlib.chdir(ROOT):
            assert importlib.import_module(module).main(words) == 0, (module, words)
    capsys.readouterr()
    names = {path.name for path in results.rglob("*.json")}
    encoder = ("encoder_overhead", "prune", "second_question", "start", "graphs")
    assert {f"{name}_cpu.json" for name in (*encoder, "prefill", "decode", "answer", "concurrency")} <= names
    assert {"device_choices.json", "dispatches.json"} <= names


def test_a_phase_that_fails_is_counted_and_the_next_ones_run(tmp_path: Path) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\ncase $* in *can_compile*|*find_spec*) exit 1;; esac\nexit 3\n")
    failing.chmod(0o755)
    out = tmp_path / "out"
    done = script(out, "--smoke", PYTHON=str(failing))
    assert done.returncode == 12
    with tarfile.open(out / "results.tar.gz") as packed:
        status = packed.extractfile("./status.txt")
        assert status is not None
        lines = status.read().decode().splitlines()
    assert lines[0] == "golden 3"
    assert lines[-1] == "start 3"


def test_nothing_is_begun_when_the_time_is_used_up(tmp_path: Path) -> None:
    done = script(tmp_path, "--smoke", BUDGET_S="0", PYTHON="false")
    assert done.returncode == 12
    assert "golden: not run, the time is used up" in (tmp_path / "log.txt").read_text()


def test_other_words_are_refused(tmp_path: Path) -> None:
    done = script(tmp_path, "--quick")
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_both_devices_choose_the_same_tokens(tmp_path: Path) -> None:
    assert device_choices.main(["--smoke", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert not torch.backends.cudnn.allow_tf32, "convolutions would be rounded to ten bits on a GPU"
    rows = json.loads((tmp_path / "device_choices.json").read_text())["rows"]
    assert {row["pruner"] for row in rows if row["input"].startswith("shipped")} >= {"desap", "flowcut"}
    assert all(row["same_tokens"] and row["same_clusters"] for row in rows)


def test_another_choice_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, seeds = device_choices.random_input, iter(range(100))
    monkeypatch.setattr(
        device_choices, "random_input", lambda *words, **options: inputs(*words, **options, seed=next(seeds))
    )
    monkeypatch.setattr(device_choices, "prunable", lambda: ["cls"])
    monkeypatch.setattr(device_choices, "_shipped_model", lambda batch, device: [])
    assert device_choices.main(["--smoke", "--device", "cpu"]) == 1
    assert "| cls | unequal |" in capsys.readouterr().out


def test_a_service_that_ends_shows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "shipped_checkpoint", lambda name: tmp_path)
    with pytest.raises(start.StackError):
        start.main(["--smoke", "--device", "cpu"])
    assert "encoder" in capsys.readouterr().err
