"""Markdown tables and their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.harness.intervals import Interval
from fovea.bench.spread import Spread

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
