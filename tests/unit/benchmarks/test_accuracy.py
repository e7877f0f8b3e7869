import json
from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.accuracy_report import markdown


def test_a_small_run_writes_table_figures_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["--pruners", "desap", "cls", "--budgets", "1/9"]
    size = ["--scenes", "2", "--splits", "easy", "--out", str(tmp_path)]
    assert accuracy.main([*methods, *size]) == 0
    result = json.loads((tmp_path / "accuracy.json").read_text())
    rows = result["splits"]["easy"]["rows"]
    assert [(row["pruner"], row["budget"]) for row in rows] == [("none", "1"), ("desap", "1/9"), ("cls", "1/9")]
    for row in rows:
        for cell in row["groups"].values():
            assert 0 <= cell["score"]["low"] <= cell["score"]["mean"] <= cell["score"]["high"] <= 1
    assert rows[0]["groups"]["all"]["minus_unpruned"]["mean"] == 0
    assert {"commit", "versions", "machine", "command"} <= set(result["provenance"])
    assert (tmp_path / "accuracy.png").stat().st_size > 1000
    assert markdown(result) == (tmp_path / "accuracy.md").read_text()
    assert "| 1/9 | desap |" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--budgets", "0"], ["--budgets", "5/4"], ["--pruners", "magic"], ["--scenes", "0"]])
def test_options_that_mean_nothing_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as status:
        accuracy.main(argv)
    assert status.value.code == 2
