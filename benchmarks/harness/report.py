"""What all reports of accuracy are made of: tables, intervals, a head that says where the figures come from, plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.intervals import Interval

__all__ = ["Curve", "Panel", "head", "interval", "plot_panels", "plot_pruners", "table"]


def interval(summary: dict[str, float]) -> Interval:
    """Back from a results file."""
    return Interval(summary["mean"], summary["low"], summary["high"])


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, num_labels: int) -> str:
    """Markdown; all columns but the first `num_labels` are flush right."""
    rule = ["---"] * num_labels + ["---:"] * (len(header) - num_labels)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows)) + "\n"


def head(title: str, result: dict[str, Any]) -> str:
    """Title and origin; rows that were added later say so in `provenance_of_rows`."""
    facts = result["provenance"]
    added = "".join(
        f" Rows of `{name}`: commit {later['commit']}, the same questions and model."
        for name, later in result.get("provenance_of_rows", {}).items()
    )
    return (
        f"# {title}\n\n"
        f"`{facts['command']}`, seed {result['seed']}, commit {facts['commit']}, torch {facts['versions']['torch']},"
        f" {facts['machine']['processor']}, {facts['date']}. The model is the small one of `lab/`, with 144"
        f" visual tokens.{added}\n\n"
    )


@dataclass(frozen=True)
class Curve:
    """Scores with their intervals over shares of the visual tokens, in any order."""

    label: str
    points: Sequence[tuple[float, Interval]]
    style: str = "o-"


@dataclass(frozen=True)
class Panel:
    """One plot of several curves."""

    title: str
    x_label: str
    unpruned: float
    curves: Sequence[Curve]


def plot_panels(rows: Sequence[Sequence[Panel]], path: Path) -> None:
    """A grid of panels with one legend; bars are the 95 % intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    figure, axes = plt.subplots(
        len(rows),
        len(rows[0]),
        figsize=(5.2 * len(rows[0]) + 1.6, 4 * len(rows)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    labels = list(dict.fromkeys(curve.label for row in rows for panel in row for curve in panel.curves))
    colors = dict(zip(labels, mpl.color_sequences["tab20"][::2] + mpl.color_sequences["tab20"][1::2], strict=False))
    handles: dict[str, Any] = {}
    for row, panels in zip(axes, rows, strict=True):
        for axis, panel in zip(row, panels, strict=True):
            handles["unpruned"] = axis.axhline(panel.unpruned, color="0.5", linestyle="--")
            for curve in panel.curves:
                points = sorted(curve.points, key=lambda point: point[0])
                means = [score.mean for _, score in points]
                handles[curve.label] = axis.errorbar(
                    [share for share, _ in points],
                    means,
                    yerr=[[s.mean - s.low for _, s in points], [s.high - s.mean for _, s in points]],
                    fmt=curve.style,
                    color=colors[curve.label],
                    capsize=3,
                )
            axis.set(title=panel.title, xlabel=panel.x_label)
            axis.set_xscale("log")
            ticks = sorted({share for curve in panel.curves for share, _ in curve.points})
            axis.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axis.grid(alpha=0.3)
        row[0].set_ylabel("right answers")
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_pruners(result: dict[str, Any], path: Path) -> None:
    """Score over budget, a panel a split, a line a pruner; the first row of each split is unpruned."""
    panels = []
    for name, split in result["splits"].items():
        base, *rows = split["rows"]
        curves = [
            Curve(
                pruner,
                [
                    (row["keep_ratio"], interval(row["groups"]["all"]["score"]))
                    for row in rows
                    if row["pruner"] == pruner
                ],
            )
            for pruner in dict.fromkeys(row["pruner"] for row in rows)
        ]
        panels.append(
            Panel(
                f"{name} ({split['questions']} questions)",
                "share of visual tokens kept",
                base["groups"]["all"]["score"]["mean"],
                curves,
            )
        )
    plot_panels([panels], path)
