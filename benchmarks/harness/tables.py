"""Markdown tables and their cells."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from benchmarks.harness.intervals import Interval

__all__ = ["Spread", "interval", "points", "signed_points", "split_title", "table"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, num_labels: int) -> str:
    """A Markdown table; all columns but the first `num_labels` are aligned to the right."""
    rule = ["---"] * num_labels + ["---:"] * (len(header) - num_labels)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows)) + "\n"


def interval(summary: dict[str, float]) -> Interval:
    """The interval that a result file holds as a dictionary."""
    return Interval(summary["mean"], summary["low"], summary["high"])


def points(summary: dict[str, float]) -> str:
    """Table cell of a score: "93.2 [92.1, 94.0]"."""
    return interval(summary).points()


def signed_points(summary: dict[str, float]) -> str:
    """Table cell of a difference of scores: "-3.1 [-4.0, -2.2]"."""
    return interval(summary).signed_points()


def split_title(name: str, split: dict[str, Any]) -> str:
    """The heading of a split of the small world: its name and its numbers of questions and images."""
    return f"## {name}: {split['questions']} questions on {split['images']} images\n\n"


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, with the lowest and the highest of them."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of some measurements, at least one."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """Table cell: "1.52 [1.40, 1.61]"."""
        return f"{self.median:.{digits}f} [{self.lowest:.{digits}f}, {self.highest:.{digits}f}]"

    def summary(self, digits: int = 3) -> dict[str, float]:
        """The spread as a result file holds it."""
        return {name: round(value, digits) for name, value in vars(self).items()}
