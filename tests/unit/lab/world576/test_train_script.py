"""The one call that trains and evaluates, small and on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, CLIPModel

ROOT = Path(__file__).parents[4]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_call_makes_checkpoints_figures_and_a_card(tmp_path: Path) -> None:
    environment = os.environ | {
        "SMALL": "1",
        "WORK": str(tmp_path / "work"),
        "OUT": str(tmp_path / "out"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [ROOT / "lab/world576/train.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("plan of 9 minutes on cpu:")
    out = tmp_path / "out"
    log = (out / "train.log").read_text()
    assert "clip 6/6" in log
    assert "llava 6/6" in log
    assert "'negative'" in log
    CLIPModel.from_pretrained(out / "clip")
    AutoModelForImageTextToText.from_pretrained(out / "llava")
    figures = json.loads((out / "figures.json").read_text())
    assert figures["easy"]["questions"] > 10
    assert "second turn" in figures["crowded"]["groups"]
    card = (out / "README.md").read_text()
    assert "not at the level of a model to ship" in card
    assert "6 of 4 images" in card
    again = subprocess.run(
        [ROOT / "lab/world576/train.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0
    assert "clip: trained, 6 steps" in again.stdout
    assert "llava: trained, 6 steps" in again.stdout
