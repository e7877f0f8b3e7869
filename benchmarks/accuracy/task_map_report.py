"""The report of `benchmarks.task_map`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.harness.intervals import Interval
from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import table

__all__ = ["BEST", "CHANCE", "DEFAULT", "GROUPS", "MapScores", "report"]

GROUPS: Final = ("color", "shape", "existence", "count", "side", "reading")
CHANCE: Final = "chance"
BEST: Final = "best reachable"
DEFAULT: Final = "decoupled similarity"


@dataclass(frozen=True)
class MapScores:
    """Scores of one map on one split. All but `precision` are None for CHANCE and BEST, which are no maps.

    Attributes:
        precision: Share of the best patches that lie on the object, by group of questions and "all".
        difference: Paired difference of "all" to DEFAULT.
        auc: Area under the ROC curve.
        lower_third: Share of the best patches in the lower third of the image.
    """

    precision: Mapping[str, Interval]
    difference: Interval | None
    auc: Interval | None
    lower_third: Interval | None

    def to_json(self) -> dict[str, Any]:
        """The scores as a result file holds them."""
        others = {"difference": self.difference, "auc": self.auc, "lower_third": self.lower_third}
        return {
            "precision": {group: vars(cell) for group, cell in self.precision.items()},
            **{name: vars(cell) for name, cell in others.items() if cell is not None},
        }


def report(result: dict[str, Any], splits: Mapping[str, Mapping[str, MapScores]]) -> str:
    """The report in Markdown: a table for each split.

    Args:
        result: Result with `provenance` and `top`.
        splits: Scores by split and map.
    """
    top = result["top"]
    intro = (
        f"# Does the map point at the object asked about?\n\n{origin(result)}\n\n"
        f"In per cent, 95 % intervals over images. *All* and the groups of questions: share of the {top} best\n"
        "patches that lie on the object asked about. *To the default*: paired difference of *all* to\n"
        f"*{DEFAULT}*, which is `desap`'s task map. *AUC*: probability that a patch on the object scores above\n"
        f"one beside it. *Lower third*: share of the {top} best in the lower third of the image, 33.3 without a bias.\n"
        "The first four maps are those of the paper's figure 7; *vanilla similarity* has FCMA too. Layers\n"
        "of the language model count from 0; its attention is that of the last prompt token.\n"
    )
    return "\n".join([intro, *(f"## {split}\n\n{_table(rows)}" for split, rows in splits.items())]).rstrip()


def _table(rows: Mapping[str, MapScores]) -> str:
    header = ("map", "all", "to the default", "AUC", "lower third", *GROUPS)
    cells = [
        [
            name,
            row.precision["all"].points(),
            "" if row.difference is None or name == DEFAULT else row.difference.signed_points(),
            "" if row.auc is None else row.auc.points(),
            "" if row.lower_third is None else f"{100 * row.lower_third.mean:.1f}",
            *(f"{100 * row.precision[group].mean:.1f}" if group in row.precision else "" for group in GROUPS),
        ]
        for name, row in rows.items()
    ]
    return table(header, cells, num_labels=1)
