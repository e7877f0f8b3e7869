"""The benchmark of hostile media runs, and its figures stay below what is charged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.safety import media_cost
from benchmarks.safety.costly_images import COSTLY_IMAGES
from benchmarks.safety.costly_videos import COSTLY_VIDEOS

RESULT = Path(media_cost.__file__).parents[1] / "results" / "media_cost.json"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process is read from Linux' procfs")
def test_a_short_run_writes_costs_and_bounds(tmp_path: Path) -> None:
    assert media_cost.main(["--smoke", "--out", str(tmp_path)]) == 0
    files = {row["kind"]: row for row in json.loads((tmp_path / "media_cost.json").read_text())["files"]}
    assert files["WebP lossless, one colour"]["bytes"] == 28
    assert files["WebP lossless, one colour"]["outcome"] == "decoded"
    assert "100 scans" in files["JPEG of 1,000 scans"]["outcome"]
    assert "65,536 pieces" in files["JPEG of 4 million segments"]["outcome"]
    strip = files["strip of 1 x 100"]
    assert 100_000_000 < strip["peak_bytes"] < strip["charged_bytes"]
    assert "| WebP lossless, one colour | 28 |" in (tmp_path / "media_cost.md").read_text()


def test_the_committed_figures_are_of_all_kinds_and_below_what_was_charged() -> None:
    files = json.loads(RESULT.read_text(encoding="utf-8"))["files"]
    assert {row["kind"] for row in files} == {*COSTLY_IMAGES, *COSTLY_VIDEOS}
    for row in files:
        if row["outcome"] == "decoded":
            assert row["peak_bytes"] <= row["charged_bytes"], row["kind"]
