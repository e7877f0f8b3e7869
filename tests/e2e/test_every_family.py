"""Every family over three real processes gives the answers of the unsplit model, for images of every shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.exactness.split import FAMILIES, measure


@pytest.mark.parametrize("family", FAMILIES)
def test_the_split_services_are_the_unsplit_model(family: str, tmp_path: Path) -> None:
    differences = measure(family, tmp_path)
    assert len(differences) >= 16
    assert [d for d in differences if not d.passed] == []
