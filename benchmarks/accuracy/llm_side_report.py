"""The report of the accuracy of pruners inside the language model: Markdown tables and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.accuracy.llm_side import COUNTINGS, REFERENCE
from benchmarks.accuracy.report import head
from benchmarks.harness.plots import Curve, Panel, plot_panels
from benchmarks.harness.tables import interval, points, signed_points, split_title, table

__all__ = ["markdown", "plot"]

_REFERENCE_LABEL: Final = f"{REFERENCE}, encoder side"
_MEANING: Final = {
    "average": "Equal average: visual tokens that a layer processes, mean over all layers",
    "first": "Equal count after the first prune",
}


def _label(row: dict[str, Any]) -> str:
    name: str = row["pruner"]
    return _REFERENCE_LABEL if name == REFERENCE else name


def _cell(row: dict[str, Any], group: str, key: str) -> str:
    value = row["groups"][group][key]
    return points(value) if key == "score" else signed_points(value)


def _by_budget(rows: list[dict[str, Any]], key: str, *, with_average: bool) -> str:
    """A table over all questions: a line for each method, a column for each budget."""
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    row_of = {(_label(row), row["budget"]): row for row in rows}

    def cell(label: str, budget: str) -> str:
        row = row_of.get((label, budget))
        if row is None:
            return ""
        if "refused" in row:
            return "-"
        text = _cell(row, "all", key)
        return f"{text} ({row['visual_tokens']:.1f})" if with_average else text

    labels = dict.fromkeys(_label(row) for row in rows if key == "score" or row["pruner"] != REFERENCE)
    return table(["method", *budgets], [[label, *(cell(label, b) for b in budgets)] for label in labels], num_labels=1)


def _counting_tables(counting: str, rows: list[dict[str, Any]]) -> str:
    notes = {
        "average": (
            "A dash: not reachable, since the layers before the first prune process all tokens and set a floor. A line"
            " such as `desap 2/9, fastv` prunes on both sides; its average is a share of all tokens of the image."
        ),
        "first": "In brackets the tokens that a layer processes on average, of 144: the methods differ in cost.",
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
            cells = [_cell(row, group, key) for group in groups]
            lines.append([row["counting"] or "", row["budget"], _label(row), f"{row['visual_tokens']:.1f}", *cells])
    return table(["counting", "kept", "method", "average", *groups], lines, num_labels=3)


def _split_tables(name: str, split: dict[str, Any]) -> str:
    base, *rest = split["rows"]
    sizes = ", ".join(f"{group} {cell['questions']}" for group, cell in base["groups"].items())
    countings = [
        _counting_tables(counting, rows)
        for counting in COUNTINGS
        if (rows := [row for row in rest if row["counting"] == counting])
    ]
    return (
        f"{split_title(name, split)}"
        "Correct answers in per cent (captions: F1 of the things named), with 95 % intervals. Unpruned"
        f" {points(base['groups']['all']['score'])}.\n\n"
        + "\n".join(countings)
        + f"\n### By group\n\nQuestions: {sizes}.\n\n{_by_group(split['rows'], 'score')}\n"
        f"Paired difference to unpruned, in points:\n\n{_by_group(rest, 'minus_unpruned')}"
    )


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    return head("Accuracy of pruners inside the language model", result) + "\n".join(
        _split_tables(name, split) for name, split in result["splits"].items()
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """Score over budget: a column for each split, a row for each counting, a line for each method."""
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
