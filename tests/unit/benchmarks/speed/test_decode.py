"""Decoding steps of the LLM service's engine beside transformers' `generate`, and requests that slots hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.speed import decode, slots
from llm_service.engine.slots import SlotClass

DOCS = Path(__file__).parents[4] / "docs/performance.md"


def test_steps_are_compared_and_operations_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decode.main(["--smoke", "--device", "cpu", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "decode_cpu.json").read_text())
    assert [cell["sequences"] for cell in result["cells"]] == [1, 2]
    for cell in result["cells"]:
        assert set(cell["rounds"]) == {"slots", "growing", "static"}
        assert all(len(times) == 2 and min(times) > 0 for times in cell["rounds"].values())
        assert set(cell["ratios"]) == {"growing", "static"}
    one, two = result["operations"]
    assert one["step"] == two["step"] > 0
    assert (one["leave"], one["reads"], two["reads"]) == (0, 1, 1)
    assert 0 < two["leave"] < 30  # the state of the slots that stay
    assert abs(one["join"] - two["join"]) < 20
    assert "| 2 | `generate`, static cache |" in capsys.readouterr().out


def test_requests_may_take_longer_slots_than_they_need() -> None:
    classes = [SlotClass(256, 5), SlotClass(1024, 3), SlotClass(4096, 1)]
    assert [slots.concurrent(classes, n) for n in (256, 257, 1024, 4096, 4097)] == [9, 4, 4, 1, 0]


def test_the_documented_table_is_the_computed_one(tmp_path: Path) -> None:
    assert slots.main(["--out", str(tmp_path)]) == 0
    rows = re.findall(r"^\| \d+ GiB .*$", (tmp_path / "slots.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == 4
    assert all(row in DOCS.read_text() for row in rows)
