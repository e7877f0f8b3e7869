import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import by_budget
from benchmarks.accuracy.encoder_side_report import markdown
from benchmarks.accuracy.llm_side_report import markdown as llm_markdown

pytestmark = pytest.mark.slow

SIZE = ["--scenes", "2", "--splits", "easy"]


def test_a_small_run_writes_table_figures_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["--sides", "encoder", "--pruners", "desap", "cls", "--budgets", "1/9"]
    assert by_budget.main([*methods, *SIZE, "--out", str(tmp_path)]) == 0
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
    assert not (tmp_path / "accuracy_llm.json").exists()


@pytest.fixture(scope="module")
def llm_side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    methods = ["--sides", "llm", "--llm-pruners", "fastv", "sparsevlm", "--budgets", "1/9", "1/3"]
    assert by_budget.main([*methods, *SIZE, "--out", str(out)]) == 0
    return out


def _row(out: Path, pruner: str, counting: str, budget: str) -> dict[str, Any]:
    rows = json.loads((out / "accuracy_llm.json").read_text())["splits"]["easy"]["rows"]
    (found,) = (row for row in rows if (row["pruner"], row["counting"], row["budget"]) == (pruner, counting, budget))
    return dict(found)


@pytest.mark.parametrize("pruner", ["fastv", "sparsevlm"])
def test_an_average_budget_is_what_a_layer_really_processed(llm_side: Path, pruner: str) -> None:
    assert _row(llm_side, pruner, "average", "1/3")["visual_tokens"] == pytest.approx(48, abs=0.5)


def test_a_budget_below_the_floor_has_no_score_and_says_the_least_accepted(llm_side: Path) -> None:
    row = _row(llm_side, "fastv", "average", "1/9")
    assert "groups" not in row
    assert "the least accepted" in row["refused"]
    assert "| fastv | - |" in (llm_side / "accuracy_llm.md").read_text()


def test_the_count_after_the_first_prune_leaves_more_on_average(llm_side: Path) -> None:
    # 144 in the first of eight layers, 16 in the other seven.
    assert _row(llm_side, "fastv", "first", "1/9")["visual_tokens"] == 32


def test_both_sides_together_reach_an_average_below_the_floor(llm_side: Path) -> None:
    row = _row(llm_side, "desap 2/9, fastv", "average", "1/9")
    assert row["visual_tokens"] == pytest.approx(16, abs=0.5)
    assert set(row["groups"]["all"]) == {"questions", "score", "minus_unpruned", "minus_reference"}


def test_differences_to_the_reference_are_those_of_the_same_budget(llm_side: Path) -> None:
    fastv, desap = (_row(llm_side, name, "first", "1/3")["groups"]["all"] for name in ("fastv", "desap"))
    difference = fastv["score"]["mean"] - desap["score"]["mean"]
    assert fastv["minus_reference"]["mean"] == pytest.approx(difference, abs=1e-5)
    assert desap["minus_reference"]["mean"] == 0


def test_the_llm_side_report_is_made_of_its_results(llm_side: Path) -> None:
    result = json.loads((llm_side / "accuracy_llm.json").read_text())
    assert llm_markdown(result) == (llm_side / "accuracy_llm.md").read_text()
    assert (llm_side / "accuracy_llm.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "argv",
    [
        ["--budgets", "0"],
        ["--budgets", "5/4"],
        ["--pruners", "magic"],
        ["--llm-pruners", "desap"],
        ["--sides", "left"],
        ["--scenes", "0"],
    ],
)
def test_options_that_mean_nothing_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as status:
        by_budget.main(argv)
    assert status.value.code == 2
