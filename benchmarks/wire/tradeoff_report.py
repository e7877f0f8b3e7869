"""The results of the narrow link as Markdown tables and as a rate-accuracy plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness.intervals import Interval

__all__ = ["markdown", "plot"]

_HEADER = (
    "| sent | rule | pruner | tokens | dtype | bytes | bits a value | encode ms | decode ms | right, % | to float32"
    " | to unpruned |"
)


def _interval(summary: dict[str, float]) -> Interval:
    return Interval(summary["mean"], summary["low"], summary["high"])


def _line(row: dict[str, Any]) -> str:
    def number(name: str, form: str) -> str:
        return format(row[name], form) if name in row else ""

    cells = [
        row["keep"],
        row.get("rule", ""),
        row["pruner"],
        number("num_tokens", ".0f"),
        row["dtype"],
        number("num_bytes", ",.0f"),
        number("bits", ".2f"),
        number("encode_ms", ".2f"),
        number("decode_ms", ".2f"),
        _interval(row["score"]).points(),
        "" if row["minus_float32"] is None else _interval(row["minus_float32"]).signed_points(),
        _interval(row["minus_unpruned"]).signed_points(),
    ]
    return "| " + " | ".join(cells) + " |"


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    facts = result["provenance"]
    text = (
        "# Bytes on the narrow link and accuracy\n\n"
        f"`{facts['command']}`, seed {result['seed']}, commit {facts['commit']}, torch {facts['versions']['torch']},"
        f" {facts['machine']['processor']}, {facts['date']}. The model is the small one of `lab/`: 144 visual tokens"
        " of 128 channels, pictures of 144 x 144 pixels.\n\n"
        "Right answers in per cent with 95 % intervals. *To float32*: paired difference to the same tokens as float32;"
        " *to unpruned*: to all tokens as float32; in points. A JPEG is read by the unpruned model. *Rule*: what a"
        " budget of bytes is spent on: *any* is the service's own, a dtype as many tokens as fit in that one.\n"
    )
    for name, split in result["splits"].items():
        rows = "\n".join(map(_line, split["rows"]))
        rule = "|---" * 3 + "|---:|---" + "|---:" * 7 + "|"
        title = f"{name}: {split['questions']} questions on {split['pictures']} pictures"
        text += f"\n## {title}\n\n{_HEADER}\n{rule}\n{rows}\n"
    return text


def _series(row: dict[str, Any]) -> str:
    if row["way"] == "jpeg":
        return "JPEG to the unpruned model"
    if row["way"] == "budget":
        rule = "" if row["rule"] == "any" else f" {row['rule']}"
        return f"max_wire_bytes{rule}, {row['pruner']}"
    return str(row["dtype"])


def _drawn(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the dtypes of all pruners but the first: a line each is enough."""
    pruners = [row["pruner"] for row in rows if row["way"] == "tokens" and row["pruner"] != "none"]
    return [row for row in rows if row["way"] != "tokens" or row["pruner"] in ("none", *pruners[:1])]


def plot(result: dict[str, Any], path: Path) -> None:
    """Score over bytes, a panel a split, a line a dtype, bars for the 95 % intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

    splits = result["splits"]
    figure, axes = plt.subplots(
        1, len(splits), figsize=(5.2 * len(splits) + 1.8, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, split) in zip(axes[0], splits.items(), strict=True):
        rows = _drawn(split["rows"])
        for series in dict.fromkeys(map(_series, rows)):
            mine = sorted((row for row in rows if _series(row) == series), key=lambda row: row["num_bytes"])
            intervals = [_interval(row["score"]) for row in mine]
            axis.errorbar(
                [row["num_bytes"] for row in mine],
                [interval.mean for interval in intervals],
                yerr=[[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]],
                marker="s" if mine[0]["way"] == "jpeg" else "*" if mine[0]["way"] == "budget" else "o",
                linestyle="--" if mine[0]["way"] == "jpeg" else ":" if mine[0]["way"] == "budget" else "-",
                color="black" if mine[0]["way"] == "jpeg" else None,
                capsize=3,
                label=series,
            )
        axis.set(title=f"{name} ({split['questions']} questions)", xlabel="bytes on the link")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("right answers")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
