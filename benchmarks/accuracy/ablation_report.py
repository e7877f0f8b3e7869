"""Reports of the ablations: our figures beside those of the paper, as Markdown tables."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.accuracy.report import head
from benchmarks.harness.tables import points, signed_points, split_title, table

__all__ = ["markdown", "sweep_markdown"]

_PAPER: Final = (
    "The paper's columns are quoted from arXiv 2604.11240: LLaVA-1.5-7B, 64 of 576 tokens. Model, data and token counts"
    " differ from ours. Only the order of the rows compares between the two halves, not the figures."
)


def _sizes(result: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {split['questions']} questions on {split['images']} images" for name, split in result["splits"].items()
    )


def _groups(split: dict[str, Any], row_key: str, value_key: str) -> str:
    """A table with a column for each group of questions."""
    groups = list(split["rows"][0]["groups"])
    lines = []
    for row in split["rows"]:
        if value_key in row["groups"]["all"]:
            cell = points if value_key == "score" else signed_points
            lines.append([row[row_key], *(cell(row["groups"][group][value_key]) for group in groups)])
    return table([row_key, *groups], lines, num_labels=1)


def markdown(result: dict[str, Any], *, title: str, note: str) -> str:
    """The report of an ablation: one table as in the paper, then our figures by group of questions."""
    splits = result["splits"]
    first = next(iter(splits.values()))["rows"]
    columns = list(dict.fromkeys(name for row in first for name in row.get("published", {})))
    header = ["variant"]
    for name in splits:
        header += [name, f"{name} - default"]
    header += [f"paper: {column}" for column in columns]
    lines = []
    for index, row in enumerate(first):
        is_default = row["variant"] == result["default"]
        line = [f"**{row['variant']}**" if is_default else row["variant"]]
        for split in splits.values():
            cell = split["rows"][index]["groups"]["all"]
            difference = "" if is_default else signed_points(cell["minus_default"])
            line += [points(cell["score"]), difference]
        lines.append([*line, *(row.get("published", {}).get(column, "") for column in columns)])
    text = (
        f"{head(title, result)}{note}\n\n{_sizes(result)}; {result['budget']} of the tokens kept. Correct answers in"
        " per cent with 95 % intervals, and paired differences in points to the default, in bold.\n\n"
        f"{table(header, lines, num_labels=1)}\n{_PAPER}\n"
    )
    for name, split in splits.items():
        text += f"\n## {name}, by group of questions\n\n{_groups(split, 'variant', 'score')}\n"
        text += f"Paired difference to the default, in points:\n\n{_groups(split, 'variant', 'minus_default')}"
    return text


def sweep_markdown(result: dict[str, Any]) -> str:
    """The report of the sweep: for each split a table of pruners and budgets, then the differences to DeSAP."""
    text = (
        head("Accuracy over the share of visual tokens kept (figure 5)", result)
        + "Correct answers in per cent with 95 % intervals. The paper's figure 5 (LLaVA-1.5-7B, 0.05 to 0.75 kept, four"
        " benchmarks) is a plot without figures; according to its text DeSAP is best everywhere.\n"
    )
    for split_name, split in result["splits"].items():
        base, *rows = split["rows"]
        ratios = sorted({row["keep_ratio"] for row in rows})
        pruners = list(dict.fromkeys(row["pruner"] for row in rows))
        cells = {(row["pruner"], row["keep_ratio"]): row["groups"]["all"] for row in rows}
        header = ["pruner", *(f"{ratio:.3g}" for ratio in ratios)]
        scores = [[name, *(points(cells[name, ratio]["score"]) for ratio in ratios)] for name in pruners]
        differences = [
            [name, *(signed_points(cells[name, ratio]["minus_desap"]) for ratio in ratios)]
            for name in pruners
            if name != "desap"
        ]
        text += (
            f"\n{split_title(split_name, split)}"
            f"Unpruned {points(base['groups']['all']['score'])}.\n\n"
            f"{table(header, scores, num_labels=1)}\n"
        )
        if differences:
            text += f"Paired difference to `desap`, in points:\n\n{table(header, differences, num_labels=1)}"
    return text
