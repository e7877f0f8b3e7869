"""The accuracy of pruners inside the language model as Markdown tables and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.accuracy.llm_side import COUNTINGS, REFERENCE
from benchmarks.harness.report import Curve, Panel, head, interval, plot_panels, table

__all__ = ["markdown", "plot"]

_REFERENCE_LABEL: Final = f"{REFERENCE}, encoder side"
_MEANING: Final = {
    "average": "Equal average: visual tokens that a layer processes, mean over all layers",
    "first": "Equal count after the first prune",
}


def _label(row: dict[str, Any]) -> str:
    name: str = row["pruner"]
    return _REFERENCE_LABEL if name == REFERENCE else name


def _by_budget(rows: list[dict[str, Any]], key: str, *, with_average: bool) -> str:
    """All questions: a line a method, a column a budget."""
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    by_place = {(_label(row), row["budget"]): row for row in rows}

    def cell(label: str, budget: str) -> str:
        row = by_place.get((label, budget))
        if row is None:
            return ""
        if "refused" in row:
            return "-"
        value = interval(row["groups"]["all"][key])
        text = value.points() if key == "score" else value.signed_points()
        return f"{text} ({row['visual_tokens']:.1f})" if with_average else text

    labels = dict.fromkeys(_label(row) for row in rows if key == "score" or row["pruner"] != REFERENCE)
    return table(["method", *budgets], [[label, *(cell(label, b) for b in budgets)] for label in labels], num_labels=1)


def _counting_tables(counting: str, rows: list[dict[str, Any]]) -> str:
    notes = {
        "average": (
            "A dash: not reachable, since the layers before the first prune process all tokens and set a floor. A line"
            " such as `desap 2/9, fastv` prunes on both sides; its average counts what is left of all tokens of the"
            " picture."
        ),
        "first": "In brackets what a layer processes on average, of 144: the methods do not cost the same here.",
    }
    average = counting == "first"
    return (
        f"### {_MEANING[counting]}\n\n{notes[counting]}\n\n"
        f"{_by_budget(rows, 'score', with_average=average)}\n"
        f"Paired difference to `{REFERENCE}` on the encoder side at the same budget, in points:\n\n"
        f"{_by_budget(rows, 'minus_reference', with_average=False)}"
    )


def _by_group(rows: list[dict[str, Any]], key: str) -> str:
    groups = list(rows[0]["groups"])
    lines = []
    for row in rows:
        if "refused" not in row:
            values = (interval(row["groups"][group][key]) for group in groups)
            cells = [value.points() if key == "score" else value.signed_points() for value in values]
            lines.append([row["counting"] or "", row["budget"], _label(row), f"{row['visual_tokens']:.1f}", *cells])
    return table(["counting", "kept", "method", "average", *groups], lines, num_labels=3)


def _split_tables(name: str, split: dict[str, Any]) -> str:
    base, *rest = split["rows"]
    sizes = ", ".join(f"{group} {cell['questions']}" for group, cell in base["groups"].items())
    parts = [
        _counting_tables(counting, rows)
        for counting in COUNTINGS
        if (rows := [row for row in rest if row["counting"] == counting])
    ]
    return (
        f"## {name}: {split['questions']} questions on {split['pictures']} pictures\n\n"
        "Right answers in per cent (captions: F1 of the things named), with 95 % intervals. Unpruned"
        f" {interval(base['groups']['all']['score']).points()}.\n\n"
        + "\n".join(parts)
        + f"\n### By group\n\nQuestions: {sizes}.\n\n{_by_group(split['rows'], 'score')}\n"
        f"Paired difference to unpruned, in points:\n\n{_by_group(rest, 'minus_unpruned')}"
    )


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    return head("Accuracy of pruners inside the language model", result) + "\n".join(
        _split_tables(name, split) for name, split in result["splits"].items()
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """Score over budget: a column a split, a row a way to count, a line a method."""
    rows = []
    for counting, x_label in (
        ("average", "share of visual tokens that a layer processes, mean"),
        ("first", "share of visual tokens after the first prune"),
    ):
        panels = []
        for name, split in result["splits"].items():
            shown = [row for row in split["rows"] if row["counting"] == counting and "refused" not in row]
            curves = [
                Curve(
                    label,
                    [
                        (row["keep_ratio"], interval(row["groups"]["all"]["score"]))
                        for row in shown
                        if _label(row) == label
                    ],
                    "s--" if label == _REFERENCE_LABEL else "*" if "," in label else "o-",
                )
                for label in dict.fromkeys(_label(row) for row in shown)
            ]
            unpruned = split["rows"][0]["groups"]["all"]["score"]["mean"]
            panels.append(Panel(f"{name} ({split['questions']} questions)", x_label, unpruned, curves))
        rows.append(panels)
    plot_panels(rows, path)
