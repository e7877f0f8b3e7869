"""Parts that the reports of accuracy share: the head, and the plot of scores over the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness.plots import Curve, Panel, plot_panels
from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import interval

__all__ = ["head", "plot_pruners"]


def head(title: str, result: dict[str, Any]) -> str:
    """Title, origin and model; `provenance_of_rows` names rows that were added in a later run."""
    added = "".join(
        f" Rows of `{name}`: commit {later['commit']}, the same questions and model."
        for name, later in result.get("provenance_of_rows", {}).items()
    )
    return (
        f"# {title}\n\n{origin(result, packages=['torch'])} The model is the small one of `lab/`, with 144 visual"
        f" tokens.{added}\n\n"
    )


def plot_pruners(result: dict[str, Any], path: Path) -> None:
    """Score over budget: a panel for each split, a line for each pruner; the first row of each split is unpruned."""
    panels = []
    for name, split in result["splits"].items():
        base, *rows = split["rows"]
        curves = [
            Curve(
                pruner,
                [
                    (row["keep_ratio"], interval(row["groups"]["all"]["score"]))
                    for row in rows
                    if row["pruner"] == pruner
                ],
            )
            for pruner in dict.fromkeys(row["pruner"] for row in rows)
        ]
        panels.append(
            Panel(
                f"{name} ({split['questions']} questions)",
                "share of visual tokens kept",
                base["groups"]["all"]["score"]["mean"],
                curves,
            )
        )
    plot_panels([panels], path)
