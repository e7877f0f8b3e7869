"""A result names the machine that it was measured on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness import provenance
from benchmarks.harness.provenance import origin

RESULTS = Path(__file__).parents[4] / "benchmarks" / "results"


def facts(accelerator: Any) -> dict[str, Any]:
    machine = {"processor": "P", "cores": 16, "accelerator": accelerator}
    recorded = {"command": "x", "commit": "c", "date": "d", "versions": {}, "machine": machine}
    return {"provenance": recorded}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch with one CUDA device."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_name=lambda: "NVIDIA H200",
        device_count=lambda: 1,
        get_device_properties=lambda index: SimpleNamespace(total_memory=150 * 2**30),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0")))
    monkeypatch.setattr(provenance, "_driver", lambda: "580.1")


@pytest.mark.usefixtures("gpu")
def test_a_cuda_device_is_named_with_its_versions() -> None:
    machine: Any = provenance.provenance("x")["machine"]
    assert machine["accelerator"] == {
        "name": "NVIDIA H200",
        "count": 1,
        "memory_gib": 150.0,
        "cuda": "13.0",
        "driver": "580.1",
    }
    assert "NVIDIA H200 (CUDA 13.0, driver 580.1)" in origin(facts(machine["accelerator"]))
    two = {**machine["accelerator"], "count": 2}
    assert "2 x NVIDIA H200" in origin(facts(two))


def test_a_machine_without_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    machine: Any = provenance.provenance("x")["machine"]
    assert machine["accelerator"] == "none"
    assert "no accelerator" in origin(facts("none"))
    assert "no accelerator" in origin(
        {"provenance": {**facts("none")["provenance"], "machine": {"processor": "P", "cores": 2}}}
    )


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_every_result_file_can_be_named(file: Path) -> None:
    result = json.loads(file.read_text())
    if "provenance" in result:
        assert result["provenance"]["commit"] in origin(result)


def test_torch_is_not_imported_for_it() -> None:
    program = (
        "import sys; from benchmarks.harness import provenance as p; p.provenance('x'); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=RESULTS.parents[1]
    )
    assert done.stdout.strip() == "False"


def test_without_git_the_commit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_git", lambda *words: "unknown")
    assert provenance.provenance("x")["commit"] == "unknown"
    monkeypatch.setenv("BENCHMARK_COMMIT", "0123456789ab")
    assert provenance.provenance("x")["commit"] == "0123456789ab"


def test_packages_that_are_not_installed_are_left_out() -> None:
    versions: Any = provenance.provenance("x", packages=["no-such-package"])["versions"]
    assert "numpy" in versions
    assert "no-such-package" not in versions
