"""The tables of pruners in the documentation are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder_service.pruners import PRUNERS
from fovea.pruner_spec import PrunerSpec
from llm_service.pruners import PRUNERS as LLM_PRUNERS

DOCS = Path(__file__).parents[3] / "docs"


def first_table(page: str) -> list[list[str]]:
    """Cells of the first table, without its head."""
    lines = (DOCS / page).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize(
    ("page", "specs"),
    [
        ("pruners.md", [pruner.spec for pruner in PRUNERS.values()]),
        ("llm_pruners.md", [pruner.spec for pruner in LLM_PRUNERS.values()]),
    ],
)
def test_the_table_lists_every_pruner_and_whether_it_reads_the_question(page: str, specs: list[PrunerSpec]) -> None:
    documented = {row[0].strip("`"): row[-1] for row in first_table(page)}
    assert documented == {spec.name: "yes" if spec.reads_text else "no" for spec in specs}
