import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import ablation
from benchmarks.accuracy.evaluation import Evaluation, shipped_system
from benchmarks.accuracy.system import Method

pytestmark = pytest.mark.slow

SIZE = ["--scenes", "2", "--splits", "crowded"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    sweep = ["--budgets", "0.05", "1/2", "--pruners", "random"]
    names = ["task_share", "alignment", "budget_sweep"]
    assert ablation.main([*names, *sweep, *SIZE, "--out", str(out)]) == 0
    return out


def _all(out: Path, name: str) -> dict[str, Any]:
    """All questions: the cell of each row, by its label."""
    rows = json.loads((out / f"ablation_{name}.json").read_text())["splits"]["crowded"]["rows"]
    return {row.get("variant") or f"{row['pruner']} {row['keep_ratio']}": row["groups"]["all"] for row in rows}


def test_a_question_without_a_share_leaves_the_choice_to_saliency(out: Path) -> None:
    system = shipped_system()
    try:
        evaluation = Evaluation(system, "crowded", seed=1, num_scenes=2)
        saliency = evaluation.run(Method("cls", 1 / 9), "cls").scores.mean()
    finally:
        system.close()
    rows = _all(out, "task_share")
    assert rows["0"]["score"]["mean"] == pytest.approx(saliency, abs=1e-5)
    assert rows["1"]["score"] != rows["0"]["score"]


def test_differences_are_to_the_default(out: Path) -> None:
    rows = _all(out, "task_share")
    assert rows["0.5"]["minus_default"]["mean"] == 0
    for row in rows.values():
        difference = row["score"]["mean"] - rows["0.5"]["score"]["mean"]
        assert row["minus_default"]["mean"] == pytest.approx(difference, abs=1e-5)


def test_alignment_is_judged_where_the_question_chooses_alone(out: Path) -> None:
    alignment, task_share = _all(out, "alignment"), _all(out, "task_share")
    assert alignment["decoupled + alignment"]["score"] == task_share["1"]["score"]
    assert alignment["all defaults, half by saliency"]["score"] == task_share["0.5"]["score"]


def test_the_table_shows_the_papers_figures_beside_ours(out: Path) -> None:
    lines = (out / "ablation_task_share.md").read_text().splitlines()
    (header,) = (line for line in lines if "paper: GQA | paper: POPE | paper: MME" in line)
    default = next(line for line in lines if line.startswith("| **0.5** |"))
    assert default.endswith("| 58.3 | 85.8 | 1748 |")
    assert default.count("|") == header.count("|")


def test_a_sweep_compares_each_pruner_with_desap(out: Path) -> None:
    rows = _all(out, "budget_sweep")
    assert list(rows) == ["none 1.0", "desap 0.05", "random 0.05", "desap 0.5", "random 0.5"]
    assert rows["desap 0.05"]["minus_desap"]["mean"] == 0
    difference = rows["random 0.05"]["score"]["mean"] - rows["desap 0.05"]["score"]["mean"]
    assert rows["random 0.05"]["minus_desap"]["mean"] == pytest.approx(difference, abs=1e-5)
    assert "| pruner | 0.05 | 0.5 |" in (out / "ablation_budget_sweep.md").read_text()
    assert (out / "ablation_budget_sweep.png").stat().st_size > 1000


@pytest.mark.parametrize("argv", [[], ["table_6"], ["task_share", "--budget", "0"], ["budget_sweep", "--budgets", "2"]])
def test_options_that_mean_nothing_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as status:
        ablation.main(argv)
    assert status.value.code == 2
