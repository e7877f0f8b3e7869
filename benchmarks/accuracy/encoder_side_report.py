"""The report of the accuracy of encoder-side pruners, as Markdown tables."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy.report import head
from benchmarks.harness.tables import points, signed_points, split_title, table

__all__ = ["markdown"]


def _by_budget(rows: list[dict[str, Any]]) -> str:
    """A table over all questions: a line for each pruner, a column for each budget."""
    base, *rest = rows
    budgets = list(dict.fromkeys(row["budget"] for row in rest))
    scores = {(row["pruner"], row["budget"]): points(row["groups"]["all"]["score"]) for row in rest}
    pruners = list(dict.fromkeys(row["pruner"] for row in rest))
    lines = [[pruner, *(scores[pruner, budget] for budget in budgets)] for pruner in pruners]
    unpruned = points(base["groups"]["all"]["score"])
    return f"Unpruned {unpruned}.\n\n{table(['pruner', *budgets], lines, num_labels=1)}"


def _by_group(rows: list[dict[str, Any]], groups: list[str]) -> tuple[str, str]:
    header = ["kept", "pruner", *groups]
    scores = [
        [row["budget"], row["pruner"], *(points(row["groups"][group]["score"]) for group in groups)] for row in rows
    ]
    losses = [
        [row["budget"], row["pruner"], *(signed_points(row["groups"][group]["minus_unpruned"]) for group in groups)]
        for row in rows[1:]
    ]
    return table(header, scores, num_labels=2), table(header, losses, num_labels=2)


def _split_tables(name: str, split: dict[str, Any]) -> str:
    rows = split["rows"]
    groups = list(rows[0]["groups"])
    sizes = ", ".join(f"{group} {rows[0]['groups'][group]['questions']}" for group in groups)
    scores, losses = _by_group(rows, groups)
    return (
        f"{split_title(name, split)}"
        "Correct answers in per cent (captions: F1 of the things named), with 95 % intervals, by share of the visual"
        " tokens that enter the language model.\n\n"
        f"{_by_budget(rows)}\n"
        f"By group of questions: {sizes}.\n\n"
        f"{scores}\n"
        "Paired difference to unpruned, in points:\n\n"
        f"{losses}"
    )


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    title = "Accuracy by pruner, budget and group of questions"
    return head(title, result) + "\n".join(_split_tables(name, split) for name, split in result["splits"].items())
