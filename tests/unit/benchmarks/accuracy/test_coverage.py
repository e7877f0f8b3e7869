"""Why DeSAP loses counts and descriptions: variants of its steps, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.accuracy import coverage
from benchmarks.accuracy.coverage_variants import VARIANTS
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunerInput, TowerFeatures
from encoder_service.pruners.tower_outputs import SALIENCY_LAST
from lab.scenes import Scene, Thing

GRID = (12, 12)


def inputs(saliency: torch.Tensor, keep: int = 16) -> PrunerInput:
    """Random patches of one image, without a question, so that saliency selects."""
    hidden = torch.randn(144, 8, generator=torch.Generator().manual_seed(0))
    return PrunerInput(TowerFeatures(hidden[None], GRID, {SALIENCY_LAST: saliency[None]}), keep)


def test_spread_tokens_do_not_touch_while_there_is_room() -> None:
    peak = torch.zeros(GRID)
    peak[4:8, 4:8] = torch.arange(16.0).view(4, 4) + 1  # the sixteen best patches are one block
    given = inputs(peak.reshape(-1))
    (together,) = PRUNERS["desap"].bind({}).prune(given).origins
    (apart,) = VARIANTS["desap, tokens 2 patches apart"].prune(given).origins
    assert together.tolist() == [row * 12 + column for row in range(4, 8) for column in range(4, 8)]
    at = np.stack([apart // 12, apart % 12], axis=1)
    distance = np.abs(at[:, None] - at).max(axis=-1) + 99 * np.eye(16)
    assert distance.min() >= 2
    assert 7 * 12 + 7 in apart  # the best patch is kept first


def test_a_variant_changes_only_its_step() -> None:
    given = inputs(torch.rand(144, generator=torch.Generator().manual_seed(1)))
    desap = PRUNERS["desap"].bind({}).prune(given)
    dropped = VARIANTS["desap, nothing merged"].prune(given)
    assert torch.equal(dropped.origins, desap.origins)
    assert torch.equal(dropped.features[0], given.vision.hidden[0][desap.origins[0]])
    assert (dropped.cluster_of_patch == -1).sum() == 128
    assert not torch.equal(dropped.features, desap.features)


def test_names_beyond_those_of_the_image_are_counted() -> None:
    things = tuple(Thing("star", look, 10, 10, 24) for look in ("red", "red", "blue"))
    scene = Scene("easy", 1, "noise", things)
    assert coverage.named_more_often(scene, "red star, red star, blue star") == 0
    assert coverage.named_more_often(scene, "Red star, red star, red star, blue star, blue star.") == 2
    assert coverage.named_more_often(scene, "green moon, green moon") == 0


@pytest.mark.slow
def test_a_small_run_writes_tables_and_goes_on_from_its_folder(tmp_path: Path) -> None:
    options = ["--smoke", "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    assert coverage.main(options) == 0
    result = json.loads((tmp_path / "coverage.json").read_text())
    assert [row["variant"] for row in result["rows"]] == ["desap", "none"]
    captions = result["rows"][0]["captions"]
    assert 0 <= captions["repeats"]["mean"] <= 1
    assert "## Where the tokens are" in (tmp_path / "coverage.md").read_text()
    stored = tmp_path / "work" / "desap.json"
    run = json.loads(stored.read_text())
    stored.write_text(json.dumps({**run, "answers": ["nothing"] * len(run["answers"])}))
    assert coverage.main(options) == 0  # the stored answers are those that are scored
    again = json.loads((tmp_path / "coverage.json").read_text())
    assert again["rows"][0]["groups"]["all"]["score"]["mean"] == 0
