"""Start-up time and memory of the services."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import footprint
from benchmarks.speed.process_size import ServiceSize

SIZE = vars(ServiceSize(1, 100_000_000, 80_000_000, 70_000_000, 8, 12))


def _result(**gateway: Any) -> dict[str, Any]:
    figures = {"import_s": 1.5, "import_cpu_s": 1.0, "ready_s": 2.0, "ready": SIZE, "answered": SIZE}
    services = dict.fromkeys(("encoder_service", "llm_service", "gateway"), figures)
    machine = {"processor": "p", "cores": 2}
    return {
        "provenance": {"command": "c", "commit": "0", "versions": {}, "machine": machine, "date": "d"},
        "answers": 3,
        "packages": {service: {"numpy": {"modules": 2, "seconds": 0.25}} for service in services},
        "rounds": [services, {**services, "gateway": {**figures, **gateway}}],
    }


@pytest.mark.parametrize(
    ("gateway", "says"),
    [
        ({}, "2 CPU s, met; at most 150 MB resident when ready, met"),
        ({"import_cpu_s": 3.5}, "2 CPU s, missed; at most 150 MB resident when ready, met"),
        ({"ready": {**SIZE, "rss": 300_000_000}}, "2 CPU s, met; at most 150 MB resident when ready, missed"),
    ],
)
def test_goals_are_of_the_median(
    gateway: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(footprint, "_measure", lambda args: _result(**gateway))
    assert footprint.main([]) == (1 if "missed" in says else 0)
    printed = capsys.readouterr().out
    assert says in printed
    assert "| numpy | 2 | 250 |" in printed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_short_run_reports_each_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "GOALS", {"import_cpu_s": 60.0, "rss": 150e6})  # CI's cores may be slow
    assert footprint.main(["--smoke", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "footprint.json").read_text())
    (figures,) = result["rounds"]
    assert list(figures) == ["encoder_service", "llm_service", "gateway"]
    for service in figures.values():
        assert 0 < service["ready"]["uss"] <= service["ready"]["pss"]
        assert service["ready"]["threads"] >= 1
        assert service["ready_s"] > 0
    assert "torch" in result["packages"]["llm_service"]
    assert "torch" not in result["packages"]["gateway"]
