import json
from pathlib import Path

import pytest
import torch

from benchmarks.accuracy import task_map

pytestmark = pytest.mark.slow


def test_a_small_run_finds_the_asked_object_better_than_saliency_does(tmp_path: Path) -> None:
    assert task_map.main(["--scenes", "4", "--out", str(tmp_path)]) == 0
    splits = json.loads((tmp_path / "task_map.json").read_text())["splits"]
    for split in ("easy", "crowded"):
        rows = splits[split]

        def mean(name: str, rows: dict[str, dict[str, dict[str, dict[str, float]]]] = rows) -> float:
            return rows[name]["precision"]["all"]["mean"]

        assert mean("decoupled similarity") > mean("CLS attention") > mean("chance")
        assert mean("cross-attention, layer 1 of 8") > mean("CLS attention")
        assert max(mean(name) for name in rows) == mean("best reachable") <= 1
        assert rows["decoupled similarity"]["auc"]["mean"] > 0.9 > rows["vanilla similarity"]["auc"]["mean"]
        gap = rows["CLS attention"]["difference"]["mean"]
        assert gap == pytest.approx(mean("CLS attention") - mean("decoupled similarity"))
        assert "auc" not in rows["chance"]
    written = (tmp_path / "task_map.md").read_text()
    assert "## easy" in written
    assert "| vanilla similarity |" in written


def test_the_area_under_the_curve_counts_pairs() -> None:
    on_object = torch.tensor([True, False, True, False])
    assert task_map._auc(torch.tensor([3.0, 1.0, 2.0, 0.0]), on_object) == 1
    assert task_map._auc(torch.tensor([0.0, 1.0, 2.0, 3.0]), on_object) == 0.25
    assert task_map._auc(torch.zeros(4), on_object) == 0.5
