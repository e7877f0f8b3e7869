"""`python -m benchmarks.wire.planes` on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.wire import planes
from benchmarks.wire.planes import FORMATS


def test_fewer_bytes_change_more_of_the_first_token(tmp_path: Path) -> None:
    assert planes.main(["--shapes", "tiny", "--images", "3", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "wire_planes.json").read_text())["shapes"]["tiny"]
    assert (found["planes"], found["channels"]) == (3, 128)
    rows = found["formats"]
    sizes = [rows[name]["plane_bytes"] for name in FORMATS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 3 * 4 * 128 * sum(found["tokens"]) / 3
    assert rows["float32"]["difference"] == rows["none"]["plane_bytes"] == 0
    assert 0 < rows["int8"]["difference"] < rows["entropy"]["difference"] < rows["none"]["difference"]
    assert "| int8 |" in (tmp_path / "wire_planes.md").read_text()
