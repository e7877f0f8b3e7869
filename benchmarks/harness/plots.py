"""Plots: matplotlib without a display, and panels of scores over a share of the visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.intervals import Interval

__all__ = ["Curve", "Panel", "error_bars", "plot_panels", "pyplot", "save_figure"]


def pyplot() -> Any:
    """matplotlib's pyplot for files only. The import is here because most runs draw nothing."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save_figure(figure: Any, path: Path, *, dpi: int = 110) -> None:
    """Writes a figure as a PNG file and closes it."""
    figure.savefig(path, dpi=dpi)
    pyplot().close(figure)


def error_bars(intervals: Sequence[Interval]) -> list[list[float]]:
    """[2, N] lengths below and above the mean, as matplotlib's `yerr` takes them."""
    return [[score.mean - score.low for score in intervals], [score.high - score.mean for score in intervals]]


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
    plt = pyplot()
    import matplotlib as mpl

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
            handles |= _plot_panel(axis, panel, colors)
        row[0].set_ylabel("correct answers")
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    save_figure(figure, path)


def _plot_panel(axis: Any, panel: Panel, colors: Mapping[str, Any]) -> dict[str, Any]:
    """Draws one panel; returns the entries of the legend by label."""
    from matplotlib.ticker import PercentFormatter

    handles = {"unpruned": axis.axhline(panel.unpruned, color="0.5", linestyle="--")}
    for curve in panel.curves:
        points = sorted(curve.points, key=lambda point: point[0])
        scores = [score for _, score in points]
        handles[curve.label] = axis.errorbar(
            [share for share, _ in points],
            [score.mean for score in scores],
            yerr=error_bars(scores),
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
    return handles
