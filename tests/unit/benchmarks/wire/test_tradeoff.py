import json
from pathlib import Path

import pytest

from benchmarks.wire import tradeoff
from benchmarks.wire.tradeoff_report import markdown

pytestmark = pytest.mark.slow


def test_a_small_run_writes_table_figures_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ways = ["--keep", "1", "1/9", "--dtypes", "float32", "int8", "basis", "--max-wire-bytes", "1500", "--jpeg", "90"]
    ways += ["--pruners", "desap", "--rules", "any", "int8"]
    assert tradeoff.main([*ways, "--scenes", "2", "--splits", "easy", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "wire.json").read_text())
    rows = result["splits"]["easy"]["rows"]
    assert [row["dtype"] for row in rows[:6]] == ["float32", "int8", "basis"] * 2
    sizes = [row["num_bytes"] for row in rows[:3]]
    assert sizes == sorted(sizes, reverse=True)
    assert rows[0]["minus_unpruned"]["mean"] == rows[3]["minus_float32"]["mean"] == 0
    assert [(row["way"], row["rule"], row["dtype"]) for row in rows[6:8]] == [
        ("budget", "any", "basis"),
        ("budget", "int8", "int8"),
    ]
    assert all(1000 < row["num_bytes"] <= 1500 for row in rows[6:8])
    assert rows[6]["num_tokens"] == 144 > rows[7]["num_tokens"]
    assert rows[8]["way"] == "jpeg"
    assert (tmp_path / "wire.png").stat().st_size > 1000
    assert markdown(result) == (tmp_path / "wire.md").read_text()
    assert "| q90 |  | none |" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--keep", "0"], ["--jpeg", "96"], ["--dtypes", "int3"], ["--max-wire-bytes", "0"]])
def test_options_that_mean_nothing_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as status:
        tradeoff.main(argv)
    assert status.value.code == 2
