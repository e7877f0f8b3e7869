"""Pictures of plans and of the validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot_plans", "plot_validation"]


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_plans(plans: Sequence[dict[str, Any]], curves: Sequence[dict[str, Any]], path: Path, *, goal_s: float) -> None:
    """Left: GPUs of each stage over the rate, all visual tokens beside the pruned. Right: p95 of one replica each.

    Args:
        plans: Rows of the report.
        curves: `visual_tokens`, `rates` a second, `p95_s` and `refused_share` of one encoder and one LLM service.
        path: PNG.
        goal_s: Drawn as a line.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.2), layout="constrained")
    reached = [row for row in plans if "encoders" in row]
    rates = sorted({row["rate"] for row in plans})
    kinds = list(dict.fromkeys(row["visual_tokens"] for row in plans))
    width = 0.8 / len(kinds)
    colors = ["C0", "C1", "C2", "C3"]
    for number, kind in enumerate(kinds):
        for row in (row for row in reached if row["visual_tokens"] == kind):
            x = rates.index(row["rate"]) + (number - (len(kinds) - 1) / 2) * width
            first = row["rate"] == min(one["rate"] for one in reached if one["visual_tokens"] == kind)
            llm_label = f"LLM services, {kind} visual tokens" if first else None
            left.bar(x - width / 4, row["llms"], width / 2.2, color=colors[number], label=llm_label)
            left.bar(
                x + width / 4,
                row["encoders"],
                width / 2.2,
                color=colors[number],
                alpha=0.45,
                label=f"encoders, {kind} visual tokens" if first else None,
            )
            left.text(
                x, max(row["llms"], row["encoders"]) * 1.08, f"{row['llms']}+{row['encoders']}", ha="center", size=8
            )
    left.set_yscale("log")
    left.set_xticks(range(len(rates)), [f"{rate:,.0f}" for rate in rates])
    left.margins(y=0.25)
    left.set(xlabel="requests/s", ylabel="GPUs (log scale)", title="GPUs that keep the goal: LLM + encoder")
    if left.has_data():  # no plan may keep the goal
        left.legend(fontsize=8, loc="upper left")
    for number, curve in enumerate(curves):
        label = f"{curve['visual_tokens']} visual tokens"
        right.plot(curve["rates"], curve["p95_s"], "-", color=colors[number], label=label)
        points = list(zip(curve["rates"], curve["p95_s"], curve["refused_share"], strict=True))
        for some, fill in ((True, "white"), (False, colors[number])):
            chosen = [(rate, p95) for rate, p95, refused in points if (refused > 0) == some]
            right.plot(*zip(*chosen, strict=True), "o", ms=5, color=colors[number], mfc=fill) if chosen else None
    right.plot([], [], "o", color="0.4", mfc="white", label="some are refused")
    right.axhline(goal_s, color="0.4", linestyle="--", label="goal")
    right.set(xlabel="requests/s", ylabel="p95 of an answer, s", title="One encoder and one LLM service")
    right.set_ylim(0, 3 * goal_s)
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_validation(rows: Sequence[dict[str, Any]], path: Path, *, tolerance: float) -> None:
    """How far off the simulation is, a line a run; the band is the tolerance."""
    plt = _pyplot()
    runs = list(dict.fromkeys((row["scenario"], row["load"], row["shape"]) for row in rows))
    figure, axis = plt.subplots(figsize=(8.5, 0.8 + 0.32 * len(runs)), layout="constrained")
    axis.axvspan(-100 * tolerance, 100 * tolerance, color="0.92", label=f"within {tolerance:.0%}")
    axis.axvline(0, color="0.5", lw=1)
    for number, (what, label) in enumerate({"answers/s": "answers per second", "p50, s": "median seconds"}.items()):
        some = [row for row in rows if row["what"] == what]
        places = [runs.index((row["scenario"], row["load"], row["shape"])) for row in some]
        axis.plot([100 * row["off_by"] for row in some], places, "os"[number], color=f"C{number}", label=label)
    axis.set_yticks(range(len(runs)), [f"{name} is short, {load}, {shape}" for name, load, shape in runs], fontsize=8)
    axis.invert_yaxis()
    most = max(30.0, 1.1 * max(abs(100 * row["off_by"]) for row in rows))
    axis.set(xlabel="simulated against real, %", xlim=(-most, most), title="encoders x LLM services")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
