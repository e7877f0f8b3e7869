"""Ablations as Markdown tables, our figures beside those of the paper."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.harness.report import head, interval, table

__all__ = ["markdown", "sweep_markdown"]

_PAPER: Final = (
    "The paper's columns are quoted from arXiv 2604.11240: LLaVA-1.5-7B, 64 of 576 tokens. Model, data and token counts"
    " differ from ours, so figures of the two halves do not compare with each other, only the order of their rows."
)


def _sizes(result: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {split['questions']} questions on {split['pictures']} pictures"
        for name, split in result["splits"].items()
    )


def _groups(split: dict[str, Any], row_key: str, value_key: str) -> str:
    """A column a group of questions."""
    groups = list(split["rows"][0]["groups"])
    lines = []
    for row in split["rows"]:
        if value_key in row["groups"]["all"]:
            values = (interval(row["groups"][group][value_key]) for group in groups)
            lines.append([row[row_key], *(v.points() if value_key == "score" else v.signed_points() for v in values)])
    return table([row_key, *groups], lines, num_labels=1)


def markdown(result: dict[str, Any], *, title: str, note: str) -> str:
    """One table in the manner of the paper, then ours by group of questions."""
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
            difference = "" if is_default else interval(cell["minus_default"]).signed_points()
            line += [interval(cell["score"]).points(), difference]
        lines.append([*line, *(row.get("published", {}).get(column, "") for column in columns)])
    text = (
        f"{head(title, result)}{note}\n\n{_sizes(result)}; {result['budget']} of the tokens kept. Right answers in per"
        " cent with 95 % intervals, and paired differences in points to the default, in bold.\n\n"
        f"{table(header, lines, num_labels=1)}\n{_PAPER}\n"
    )
    for name, split in splits.items():
        text += f"\n## {name}, by group of questions\n\n{_groups(split, 'variant', 'score')}\n"
        text += f"Paired difference to the default, in points:\n\n{_groups(split, 'variant', 'minus_default')}"
    return text


def sweep_markdown(result: dict[str, Any]) -> str:
    """A table a split: a line a pruner, a column a budget; then the differences to DeSAP."""
    text = (
        head("Accuracy over the share of visual tokens kept (figure 5)", result)
        + "Right answers in per cent with 95 % intervals. The paper's figure 5 (LLaVA-1.5-7B, 0.05 to 0.75 kept, four"
        " benchmarks) is printed without figures; its text says that DeSAP is best everywhere in it.\n"
    )
    for name, split in result["splits"].items():
        base, *rows = split["rows"]
        ratios = sorted({row["keep_ratio"] for row in rows})
        pruners = list(dict.fromkeys(row["pruner"] for row in rows))
        cells = {(row["pruner"], row["keep_ratio"]): row["groups"]["all"] for row in rows}
        header = ["pruner", *(f"{ratio:.3g}" for ratio in ratios)]
        scores = [[p, *(interval(cells[p, ratio]["score"]).points() for ratio in ratios)] for p in pruners]
        others = [
            [p, *(interval(cells[p, ratio]["minus_desap"]).signed_points() for ratio in ratios)]
            for p in pruners
            if p != "desap"
        ]
        text += (
            f"\n## {name}: {split['questions']} questions on {split['pictures']} pictures\n\n"
            f"Unpruned {interval(base['groups']['all']['score']).points()}.\n\n"
            f"{table(header, scores, num_labels=1)}\n"
        )
        if others:
            text += f"Paired difference to `desap`, in points:\n\n{table(header, others, num_labels=1)}"
    return text
