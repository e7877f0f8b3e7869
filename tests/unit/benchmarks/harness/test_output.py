"""Results are written only where --out says."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from benchmarks.harness.output import add_output, publish

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"


def test_without_a_folder_a_report_is_printed_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(None, "name", {"a": 1}, "# Report", plot=lambda path: path.write_bytes(b""))
    assert capsys.readouterr().out == "# Report\n"
    assert not list(tmp_path.iterdir())


def test_with_a_folder_figures_report_and_plot_are_written(tmp_path: Path) -> None:
    publish(tmp_path / "new", "name.1", {"a": 1}, "# Report", plot=lambda path: path.write_bytes(b"png"))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["name.1.json", "name.1.md", "name.1.png"]
    assert json.loads((tmp_path / "new" / "name.1.json").read_text()) == {"a": 1}


def test_the_short_form_overrides_what_stands_before_it() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    add_output(parser, scenes=2)
    assert vars(parser.parse_args([])) == {"scenes": 500, "seed": 1, "out": None}
    assert parser.parse_args(["--scenes", "9", "--smoke"]).scenes == 2
    assert parser.parse_args(["--smoke", "--scenes", "9", "--seed", "3"]).scenes == 9


def test_no_benchmark_has_a_way_to_write_of_its_own() -> None:
    own = re.compile(r'add_argument\(\s*"--out"|\.write_text\(json\.dumps\(result')
    sources = {path: path.read_text() for path in BENCHMARKS.rglob("*.py")}
    assert {path.name for path, text in sources.items() if own.search(text)} == {"output.py"}
    commands = [text for text in sources.values() if re.search(r"publish\((args|options)\.out", text)]
    assert len(commands) >= 12
    assert all("provenance(" in text for text in commands)
