"""The report of `benchmarks.smaller_images`, as Markdown tables."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy.report import head
from benchmarks.harness.tables import points, signed_points, split_title, table

__all__ = ["markdown"]

Rows = list[dict[str, Any]]


def _by_budget(rows: Rows, key: str) -> str:
    """A line for each method, a column for each budget, over all questions; "" for a method against itself."""
    cells = {(row["method"], row["budget"]): row["groups"]["all"][key] for row in rows}
    methods, budgets = (list(dict.fromkeys(row[name] for row in rows)) for name in ("method", "budget"))
    text = points if key == "score" else signed_points
    lines = [
        [method, *("" if key == f"minus_{method}" else text(cells[method, budget]) for budget in budgets)]
        for method in methods
    ]
    return table(["method", *budgets], lines, num_labels=1)


def _split_tables(name: str, split: dict[str, Any]) -> str:
    base, *rows = split["rows"]
    groups = list(base["groups"])
    by_group = [
        [row["budget"], row["method"], f"{row['visual_tokens']:g}"]
        + [points(row["groups"][group]["score"]) for group in groups]
        for row in split["rows"]
    ]
    against = [key for key in rows[0]["groups"]["all"] if key.startswith("minus_")]
    differences = "\n".join(
        f"Paired difference to {key.removeprefix('minus_')}, in points:\n\n{_by_budget(rows, key)}" for key in against
    )
    sizes = ", ".join(f"{group} {base['groups'][group]['questions']}" for group in groups)
    return (
        f"{split_title(name, split)}"
        "Correct answers in per cent (captions: F1 of the things named), with 95 % intervals, by share of the visual"
        f" tokens that enter the language model. Unpruned {points(base['groups']['all']['score'])}.\n\n"
        f"{_by_budget(rows, 'score')}\n"
        f"{differences}\n"
        f"By group of questions: {sizes}.\n\n"
        f"{table(['kept', 'method', 'tokens', *groups], by_group, num_labels=2)}"
    )


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    title = "Pruned tokens beside a smaller image"
    explained = (
        "`downsample` shrinks the image until the tower has that many patches, with interpolated position embeddings."
        " `pooling` averages the features of the whole image over that many areas. `cdpruner, w = 0.5` has OpenVINO's"
        " kernel. Neither tower nor language model was trained on images of another size. Nothing was tuned on these"
        " images.\n\n"
    )
    return head(title, result) + explained + "\n".join(_split_tables(*split) for split in result["splits"].items())
