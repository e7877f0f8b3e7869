import json
from pathlib import Path

from benchmarks import task_map


def test_a_small_run_finds_the_asked_object_better_than_saliency_does(tmp_path: Path) -> None:
    assert task_map.main(["--scenes", "4", "--out", str(tmp_path)]) == 0
    precision = json.loads((tmp_path / "task_map.json").read_text())["precision"]

    def mean(name: str) -> float:
        value: float = precision[name]["all"]["mean"]
        return value

    assert mean("decoupled, FCMA shifted (default)") > mean("CLS attention") > mean("chance")
    assert mean("best reachable") <= 1
    assert "| CLS attention |" in (tmp_path / "task_map.md").read_text()
