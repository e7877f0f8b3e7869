"""Plots of the plans and of the validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.plots import pyplot, save_figure

__all__ = ["plot_plans", "plot_validation"]

_COLORS: Final = ("C0", "C1", "C2", "C3")


def plot_plans(plans: Sequence[dict[str, Any]], curves: Sequence[dict[str, Any]], path: Path, *, goal_s: float) -> None:
    """Left: GPUs of each stage over the rate, with all visual tokens and with the kept ones. Right: p95 over the rate.

    Args:
        plans: Rows of the report.
        curves: `visual_tokens`, `rates` a second, `p95_s` and `refused_share` of one encoder and one LLM service.
        path: PNG file.
        goal_s: Goal for p95, drawn as a line.
    """
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11.5, 4.2), layout="constrained")
    _plot_gpus(left, plans)
    _plot_latency(right, curves, goal_s)
    save_figure(figure, path)


def _plot_gpus(axis: Any, plans: Sequence[dict[str, Any]]) -> None:
    rates = sorted({row["rate"] for row in plans})
    kinds = list(dict.fromkeys(row["visual_tokens"] for row in plans))
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        shift = (number - (len(kinds) - 1) / 2) * width
        labels: dict[str, str | None] = {
            "llms": f"LLM services, {kind} visual tokens",
            "encoders": f"encoders, {kind} visual tokens",
        }
        for row in sorted((row for row in plans if row["visual_tokens"] == kind), key=lambda row: row["rate"]):
            if "encoders" not in row:  # no plan keeps the goal
                continue
            x = rates.index(row["rate"]) + shift
            for stage, side, alpha in (("llms", -1, 1.0), ("encoders", 1, 0.45)):
                bar = {"color": _COLORS[number], "alpha": alpha, "label": labels[stage]}
                axis.bar(x + side * width / 4, row[stage], width / 2.2, **bar)
            labels = {"llms": None, "encoders": None}  # one entry of the legend for each kind
            text = f"{row['llms']}+{row['encoders']}"
            axis.text(x, max(row["llms"], row["encoders"]) * 1.08, text, ha="center", size=8)
    axis.set_yscale("log")
    axis.set_xticks(range(len(rates)), [f"{rate:,.0f}" for rate in rates])
    axis.margins(y=0.25)
    axis.set(xlabel="requests/s", ylabel="GPUs (log scale)", title="GPUs that keep the goal: LLM + encoder")
    if axis.has_data():  # it is empty where no plan keeps the goal
        axis.legend(fontsize=8, loc="upper left")


def _plot_latency(axis: Any, curves: Sequence[dict[str, Any]], goal_s: float) -> None:
    for number, curve in enumerate(curves):
        color = _COLORS[number]
        axis.plot(curve["rates"], curve["p95_s"], "-", color=color, label=f"{curve['visual_tokens']} visual tokens")
        points = list(zip(curve["rates"], curve["p95_s"], curve["refused_share"], strict=True))
        for refuses, fill in ((True, "white"), (False, color)):
            if chosen := [(rate, p95) for rate, p95, refused in points if (refused > 0) == refuses]:
                axis.plot(*zip(*chosen, strict=True), "o", ms=5, color=color, mfc=fill)
    axis.plot([], [], "o", color="0.4", mfc="white", label="some requests are refused")
    axis.axhline(goal_s, color="0.4", linestyle="--", label="goal")
    axis.set(xlabel="requests/s", ylabel="p95 of an answer, s", title="One encoder and one LLM service")
    axis.set_ylim(0, 3 * goal_s)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def plot_validation(rows: Sequence[dict[str, Any]], path: Path, *, tolerance: float) -> None:
    """Relative error of the simulation, a line for each run; the band is the tolerance."""
    runs = list(dict.fromkeys((row["scenario"], row["load"], row["shape"]) for row in rows))
    figure, axis = pyplot().subplots(figsize=(8.5, 0.8 + 0.32 * len(runs)), layout="constrained")
    axis.axvspan(-100 * tolerance, 100 * tolerance, color="0.92", label=f"within {tolerance:.0%}")
    axis.axvline(0, color="0.5", lw=1)
    for number, (what, label) in enumerate({"answers/s": "answers per second", "p50, s": "median seconds"}.items()):
        chosen = [row for row in rows if row["what"] == what]
        lines = [runs.index((row["scenario"], row["load"], row["shape"])) for row in chosen]
        axis.plot([100 * row["off_by"] for row in chosen], lines, "os"[number], color=f"C{number}", label=label)
    names = [f"{name} is the bottleneck, {load}, {shape}" for name, load, shape in runs]
    axis.set_yticks(range(len(runs)), names, fontsize=8)
    axis.invert_yaxis()
    most = max(30.0, 1.1 * max(abs(100 * row["off_by"]) for row in rows))
    axis.set(xlabel="simulated against real, %", xlim=(-most, most), title="encoders x LLM services")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    save_figure(figure, path)
