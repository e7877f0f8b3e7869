import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import better_than_desap
from benchmarks.accuracy.better_than_desap_report import verdict

pytestmark = pytest.mark.slow


def test_a_small_run_writes_verdict_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--scenes", "2", "--splits", "easy", "--budgets", "1/9", "--out", str(tmp_path)]
    assert better_than_desap.main(options) == 0
    result = json.loads((tmp_path / "better_than_desap.json").read_text())
    (row,) = result["splits"]["easy"]["rows"]
    everything = row["groups"]["all"]
    gained = everything["score"]["mean"] - everything["against"]["mean"]
    assert everything["difference"]["mean"] == pytest.approx(gained, abs=1e-5)
    share = everything["score"]["mean"] / everything["unpruned"]["mean"]
    assert everything["of_unpruned"]["mean"] == pytest.approx(share, abs=1e-5)
    said = (tmp_path / "better_than_desap.md").read_text()
    assert "Is `fovea` better than `desap`?" in said
    assert said in capsys.readouterr().out


def _cell(unpruned: float, against: float, difference: tuple[float, float, float]) -> dict[str, Any]:
    low, mean, high = difference
    point = {
        "unpruned": unpruned,
        "against": against,
        "score": against + mean,
        "of_unpruned": (against + mean) / unpruned,
    }
    cell: dict[str, Any] = {name: {"low": value, "mean": value, "high": value} for name, value in point.items()}
    return {**cell, "difference": {"low": low, "mean": mean, "high": high}}


def _holds(all_: dict[str, Any], count: dict[str, Any], budget: str = "1/9") -> list[bool]:
    return [holds for holds, _ in verdict({"rows": [{"budget": budget, "groups": {"all": all_, "count": count}}]})]


def test_the_verdict_is_strict() -> None:
    better, alike = _cell(0.94, 0.85, (0.06, 0.075, 0.09)), _cell(0.7, 0.6, (-0.1, -0.02, 0.06))
    assert _holds(better, alike) == [True, True, True]
    assert _holds(_cell(0.94, 0.85, (-0.01, 0.075, 0.09)), alike) == [False, True, True]  # the average is not sure
    assert _holds(better, _cell(0.7, 0.6, (-0.1, -0.06, -0.02))) == [True, False, True]  # a group is surely worse
    assert _holds(_cell(0.94, 0.85, (0.05, 0.06, 0.07)), alike) == [True, True, False]  # too little of unpruned
    assert _holds(_cell(0.94, 0.935, (-0.01, 0, 0.01)), alike, "1/3") == [True]  # the other lost nothing to win back


@pytest.mark.parametrize("argv", [["--budgets", "0"], ["--pruner", "magic"], ["--scenes", "0"]])
def test_options_that_mean_nothing_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as status:
        better_than_desap.main(argv)
    assert status.value.code == 2
