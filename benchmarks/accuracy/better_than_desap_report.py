"""The report of `benchmarks.better_than_desap`: a verdict for each condition, and paired tables."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.accuracy.report import head
from benchmarks.harness.tables import interval, points, signed_points, split_title, table

__all__ = ["markdown", "verdict"]

_LOSS: Final = 0.01  # loss of the other pruner against unpruned from which a budget counts
_RATIO_AT: Final = "1/9"
_RATIO: Final = 0.981  # share of the unpruned score that the paper reports at a ninth


def verdict(split: dict[str, Any]) -> list[tuple[bool, str]]:
    """The conditions of being better: for each whether it holds, and the figures that decide it."""
    found = []
    for row in split["rows"]:
        groups, budget = row["groups"], row["budget"]
        lost = groups["all"]["unpruned"]["mean"] - groups["all"]["against"]["mean"]
        if lost >= _LOSS:
            gain = interval(groups["all"]["difference"])
            found.append((gain.low > 0, f"{budget}: better on average, {gain.signed_points()} points"))
        worse = [name for name, cell in groups.items() if cell["difference"]["high"] < 0]
        names = f": {', '.join(worse)}" if worse else ""
        found.append((not worse, f"{budget}: no group's interval lies below zero{names}"))
        if "caption" in groups:
            gain = interval(groups["caption"]["difference"])
            found.append((gain.mean > 0, f"{budget}: descriptions name more, {gain.signed_points()} points"))
        if budget == _RATIO_AT:
            share = interval(groups["all"]["of_unpruned"])
            found.append(
                (share.mean >= _RATIO, f"{budget}: {share.points()} % of unpruned, {100 * _RATIO:.1f} asked for")
            )
    return found


def _tables(name: str, split: dict[str, Any], pruner: str, against: str) -> str:
    cells = split["rows"][0]["groups"]
    lines = [["1", "unpruned", *(points(cell["unpruned"]) for cell in cells.values())]]
    for row in split["rows"]:
        for label, key in (
            (against, "against"),
            (pruner, "score"),
            ("difference", "difference"),
            ("% of unpruned", "of_unpruned"),
        ):
            text = signed_points if key == "difference" else points
            lines.append([row["budget"], label, *(text(cell[key]) for cell in row["groups"].values())])
    conditions = "\n".join(f"* {'yes' if holds else '**no**'}: {text}" for holds, text in verdict(split))
    sizes = ", ".join(f"{group} {cell['questions']}" for group, cell in cells.items())
    return (
        f"{split_title(name, split)}{conditions}\n\n"
        f"Questions: {sizes}. Correct answers in per cent (captions: F1 of the things named) and paired differences in"
        f" points, with 95 % intervals:\n\n{table(['kept', '', *cells], lines, num_labels=2)}"
    )


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    title = f"Is `{result['pruner']}` better than `{result['against']}`?"
    tables = (_tables(name, split, result["pruner"], result["against"]) for name, split in result["splits"].items())
    return f"{head(title, result)}Nothing was tuned on these images.\n\n" + "\n".join(tables)
