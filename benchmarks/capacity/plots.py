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
        curves: `visual_tokens`, `rates` a second and `p95_s` of a deployment of one encoder and one LLM service.
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
    left.legend(fontsize=8, loc="upper left")
    for number, curve in enumerate(curves):
        right.plot(
            curve["rates"], curve["p95_s"], "o-", ms=3, color=colors[number], label=f"{curve['visual_tokens']} tokens"
        )
    right.axhline(goal_s, color="0.4", linestyle="--", label="goal")
    right.set(xlabel="requests/s", ylabel="p95 of an answer, s", title="One encoder and one LLM service")
    right.set_ylim(0, 3 * goal_s)
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_validation(rows: Sequence[dict[str, Any]], path: Path, *, tolerance: float) -> None:
    """Simulated over real, throughput left and median seconds right; the band is the tolerance."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.4), layout="constrained")
    titles = {"answers/s": "answers per second", "p50, s": "median seconds of an answer"}
    for axis, (what, title) in zip(axes, titles.items(), strict=True):
        chosen = [row for row in rows if row["what"] == what]
        most = 1.2 * max(max(row["real"], row["simulated"]) for row in chosen)
        axis.fill_between(
            [0, most],
            [0, most * (1 - tolerance)],
            [0, most * (1 + tolerance)],
            color="0.9",
            label=f"within {tolerance:.0%}",
        )
        axis.plot([0, most], [0, most], color="0.6", lw=1)
        groups = dict.fromkeys((row["scenario"], "clients" in row["load"]) for row in chosen)
        for number, (scenario, closed) in enumerate(groups):
            some = [row for row in chosen if row["scenario"] == scenario and ("clients" in row["load"]) == closed]
            label = f"{scenario} is short, {'clients that ask again' if closed else 'arrivals at random'}"
            x, y = [row["real"] for row in some], [row["simulated"] for row in some]
            axis.plot(x, y, "os^v"[number], color=f"C{number}", label=label)
            for row in some:
                axis.annotate(
                    row["shape"], (row["real"], row["simulated"]), xytext=(5, -9), textcoords="offset points", size=8
                )
        axis.set(title=title, xlabel="real services", ylabel="simulated", xlim=(0, most), ylim=(0, most))
        axis.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=110)
    plt.close(figure)
