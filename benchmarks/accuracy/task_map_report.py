"""The tables of `benchmarks.task_map`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.harness.intervals import Interval
from benchmarks.harness.report import table

__all__ = ["BEST", "CHANCE", "DEFAULT", "GROUPS", "MapScores", "report"]

GROUPS: Final = ("color", "shape", "existence", "count", "side", "reading")
CHANCE: Final = "chance"
BEST: Final = "best reachable"
DEFAULT: Final = "decoupled similarity"


@dataclass(frozen=True)
class MapScores:
    """One map on one split.

    Attributes:
        precision: By group of questions and "all": share of the best patches that lie on the object.
        difference: Paired, of all, to DEFAULT; this and the others None where there is no map.
        auc: Area under the ROC curve.
        lower_third: Share of the best patches that lie in the lower third of the picture.
    """

    precision: Mapping[str, Interval]
    difference: Interval | None
    auc: Interval | None
    lower_third: Interval | None

    def to_json(self) -> dict[str, Any]:
        """As it lies in the results."""
        others = {"difference": self.difference, "auc": self.auc, "lower_third": self.lower_third}
        return {
            "precision": {group: vars(cell) for group, cell in self.precision.items()},
            **{name: vars(cell) for name, cell in others.items() if cell is not None},
        }


def report(splits: Mapping[str, Mapping[str, MapScores]], *, top: int) -> str:
    """Markdown: a table for each split."""
    intro = (
        f"In per cent, 95 % intervals over pictures. *All* and the groups of questions: share of the {top} best\n"
        "patches that lie on the object asked about. *To the default*: paired difference of *all* to\n"
        f"*{DEFAULT}*, which is `desap`'s task map. *AUC*: chance that a patch on the object scores above one\n"
        f"that is not. *Lower third*: share of the {top} best in the lower third of the picture, 33.3 without a bias.\n"
        "The first four maps are those of the paper's figure 7; *vanilla similarity* too is taken with FCMA. Layers\n"
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
