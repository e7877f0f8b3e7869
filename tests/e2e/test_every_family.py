"""Every family over three real processes gives the answers of the unsplit model, for images of every shape.

These tests are also the run of `python -m benchmarks.split_exactness`: its short form, but with every family and case.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.exactness.split import FAMILIES, main

EVERY_CASE = "1000"


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_split_services_are_the_unsplit_model(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--smoke", "--families", family, "--cases", EVERY_CASE, "--out", str(tmp_path)])
    cases = json.loads((tmp_path / "split_exactness.json").read_text())["families"][family]
    assert len(cases) >= 16
    assert [case for case in cases if not case["passed"]] == []
    assert status == 0
    assert "all cases pass" in capsys.readouterr().out
