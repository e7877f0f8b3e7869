"""The accuracy results as Markdown tables and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.intervals import Interval

__all__ = ["markdown", "plot"]


def _interval(summary: dict[str, float]) -> Interval:
    return Interval(summary["mean"], summary["low"], summary["high"])


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _split_tables(name: str, split: dict[str, Any]) -> str:
    rows = split["rows"]
    groups = list(rows[0]["groups"])
    scores = [
        [row["budget"], row["pruner"], *(_interval(row["groups"][group]["score"]).points() for group in groups)]
        for row in rows
    ]
    losses = [
        [
            row["budget"],
            row["pruner"],
            *(_interval(row["groups"][group]["minus_unpruned"]).signed_points() for group in groups),
        ]
        for row in rows[1:]
    ]
    sizes = ", ".join(f"{group} {rows[0]['groups'][group]['questions']}" for group in groups)
    return (
        f"## {name}: {split['questions']} questions on {split['pictures']} pictures\n\n"
        f"Questions: {sizes}.\n\n"
        "Right answers in per cent (captions: F1 of the things named), with 95 % intervals:\n\n"
        f"{_table(['kept', 'pruner', *groups], scores)}\n"
        "Paired difference to unpruned, in points:\n\n"
        f"{_table(['kept', 'pruner', *groups], losses)}"
    )


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    facts = result["provenance"]
    head = (
        "# Accuracy by pruner, budget and group of questions\n\n"
        f"`{facts['command']}`, seed {result['seed']}, commit {facts['commit']}, torch {facts['versions']['torch']},"
        f" {facts['machine']['processor']}, {facts['date']}. The model is the small one of `lab/`, with 144"
        " visual tokens.\n\n"
    )
    return head + "\n".join(_split_tables(name, split) for name, split in result["splits"].items())


def plot(result: dict[str, Any], path: Path) -> None:
    """Score over budget, a panel a split, a line a pruner, bars for the 95 % intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    splits = result["splits"]
    figure, axes = plt.subplots(
        1, len(splits), figsize=(5.2 * len(splits) + 1.4, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, split) in zip(axes[0], splits.items(), strict=True):
        base, *rows = split["rows"]
        axis.axhline(base["groups"]["all"]["score"]["mean"], color="0.5", linestyle="--", label="unpruned")
        for pruner in dict.fromkeys(row["pruner"] for row in rows):
            mine = sorted((row for row in rows if row["pruner"] == pruner), key=lambda row: row["keep_ratio"])
            intervals = [_interval(row["groups"]["all"]["score"]) for row in mine]
            axis.errorbar(
                [row["keep_ratio"] for row in mine],
                [interval.mean for interval in intervals],
                yerr=[[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]],
                marker="o",
                capsize=3,
                label=pruner,
            )
        axis.set(title=f"{name} ({split['questions']} questions)", xlabel="share of visual tokens kept")
        axis.set_xscale("log")
        ticks = sorted({row["keep_ratio"] for row in rows})
        axis.set_xticks(ticks, [f"{tick:.3f}".rstrip("0") for tick in ticks])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("right answers")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
