"""Whether one pruner is better than another: the verdict in sentences and the paired tables, as Markdown."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.harness.intervals import Interval

__all__ = ["markdown", "verdict"]

_LOSS: Final = 0.01  # what the other has to lose against unpruned for a budget to count
_RATIO_AT: Final = "1/9"
_RATIO: Final = 0.981  # of unpruned, the paper's own figure at a ninth


def _interval(summary: dict[str, float]) -> Interval:
    return Interval(summary["mean"], summary["low"], summary["high"])


def verdict(split: dict[str, Any]) -> list[tuple[bool, str]]:
    """The conditions of being better, each with whether it holds and the figures that decide it."""
    found = []
    for row in split["rows"]:
        groups, budget = row["groups"], row["budget"]
        lost = groups["all"]["unpruned"]["mean"] - groups["all"]["against"]["mean"]
        if lost >= _LOSS:
            gain = _interval(groups["all"]["difference"])
            found.append((gain.low > 0, f"{budget}: better on average, {gain.signed_points()} points"))
        worse = [name for name, cell in groups.items() if cell["difference"]["high"] < 0]
        names = f": {', '.join(worse)}" if worse else ""
        found.append((not worse, f"{budget}: no group's interval lies below zero{names}"))
        if "caption" in groups:
            gain = _interval(groups["caption"]["difference"])
            found.append((gain.mean > 0, f"{budget}: descriptions name more, {gain.signed_points()} points"))
        if budget == _RATIO_AT:
            share = _interval(groups["all"]["of_unpruned"])
            found.append(
                (share.mean >= _RATIO, f"{budget}: {share.points()} % of unpruned, {100 * _RATIO:.1f} asked for")
            )
    return found


def _tables(name: str, split: dict[str, Any], pruner: str, against: str) -> str:
    cells = split["rows"][0]["groups"]
    lines = ["| kept | | " + " | ".join(cells) + " |", "| --- | --- |" + " ---: |" * len(cells)]
    unpruned = " | ".join(_interval(cell["unpruned"]).points() for cell in cells.values())
    lines.append(f"| 1 | unpruned | {unpruned} |")
    for row in split["rows"]:
        for label, key in (
            (against, "against"),
            (pruner, "score"),
            ("difference", "difference"),
            ("% of unpruned", "of_unpruned"),
        ):
            intervals = [_interval(cell[key]) for cell in row["groups"].values()]
            points = [one.signed_points() if key == "difference" else one.points() for one in intervals]
            lines.append(f"| {row['budget']} | {label} | " + " | ".join(points) + " |")
    said = "\n".join(f"* {'yes' if holds else '**no**'}: {text}" for holds, text in verdict(split))
    sizes = ", ".join(f"{group} {cell['questions']}" for group, cell in cells.items())
    table = "\n".join(lines)
    return (
        f"## {name}: {split['questions']} questions on {split['pictures']} pictures\n\n{said}\n\n"
        f"Questions: {sizes}. Right answers in per cent (captions: F1 of the things named) and paired differences in"
        f" points, with 95 % intervals:\n\n{table}\n"
    )


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    facts = result["provenance"]
    head = (
        f"# Is `{result['pruner']}` better than `{result['against']}`?\n\n"
        f"`{facts['command']}`, seed {result['seed']}, commit {facts['commit']}, torch {facts['versions']['torch']},"
        f" {facts['machine']['processor']}, {facts['date']}. The model is the small one of `lab/`, with 144"
        " visual tokens. Nothing was tuned on these pictures.\n\n"
    )
    tables = (_tables(name, split, result["pruner"], result["against"]) for name, split in result["splits"].items())
    return head + "\n".join(tables)
