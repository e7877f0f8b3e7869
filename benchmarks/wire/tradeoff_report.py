"""The report of `benchmarks.wire`: Markdown tables and a plot of accuracy over bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.harness.plots import error_bars, pyplot, save_figure
from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import interval, points, signed_points, split_title, table

__all__ = ["markdown", "plot"]

_HEADER: Final = (
    "sent",
    "rule",
    "pruner",
    "dtype",
    "tokens",
    "bytes",
    "bits a value",
    "encode ms",
    "decode ms",
    "correct, %",
    "to float32",
    "to unpruned",
)
# Marker, line and color of a curve, by way of sending; None: the next color.
_STYLES: Final = {"tokens": ("o", "-", None), "budget": ("*", ":", None), "jpeg": ("s", "--", "black")}


def _cells(row: dict[str, Any]) -> list[str]:
    def number(name: str, form: str) -> str:
        return format(row[name], form) if name in row else ""

    return [
        row["keep"],
        row.get("rule", ""),
        row["pruner"],
        row["dtype"],
        number("num_tokens", ".0f"),
        number("num_bytes", ",.0f"),
        number("bits", ".2f"),
        number("encode_ms", ".2f"),
        number("decode_ms", ".2f"),
        points(row["score"]),
        "" if row["minus_float32"] is None else signed_points(row["minus_float32"]),
        signed_points(row["minus_unpruned"]),
    ]


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    text = (
        f"# Bytes on the narrow link and accuracy\n\n{origin(result, packages=['torch'])} The model is the small one of"
        " `lab/`: 144 visual tokens of 128 channels, images of 144 x 144 pixels.\n\n"
        "Correct answers in per cent with 95 % intervals. *To float32*: paired difference to these tokens as float32;"
        " *to unpruned*: to all tokens as float32; in points. A JPEG is read by the unpruned model. *Rule*: wire format"
        " for a budget of bytes: *any* is the service's own choice, else as many tokens as fit in that format.\n"
    )
    for name, split in result["splits"].items():
        text += f"\n{split_title(name, split)}{table(_HEADER, map(_cells, split['rows']), num_labels=4)}"
    return text


def _curve_name(row: dict[str, Any]) -> str:
    if row["way"] == "jpeg":
        return "JPEG to the unpruned model"
    if row["way"] == "budget":
        rule = "" if row["rule"] == "any" else f" {row['rule']}"
        return f"max_wire_bytes{rule}, {row['pruner']}"
    return str(row["dtype"])


def _plotted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the first pruner only, as one line for each wire format is enough."""
    pruners = [row["pruner"] for row in rows if row["way"] == "tokens" and row["pruner"] != "none"]
    return [row for row in rows if row["way"] != "tokens" or row["pruner"] in ("none", *pruners[:1])]


def plot(result: dict[str, Any], path: Path) -> None:
    """Score over bytes: a panel for each split, a line for each wire format, bars for the 95 % intervals."""
    plt, splits = pyplot(), result["splits"]
    figure, axes = plt.subplots(
        1, len(splits), figsize=(5.2 * len(splits) + 1.8, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, split) in zip(axes[0], splits.items(), strict=True):
        _plot_split(axis, name, split)
    axes[0][0].set_ylabel("correct answers")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    save_figure(figure, path, dpi=130)


def _plot_split(axis: Any, name: str, split: dict[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

    rows = _plotted(split["rows"])
    for curve in dict.fromkeys(map(_curve_name, rows)):
        curve_rows = sorted((row for row in rows if _curve_name(row) == curve), key=lambda row: row["num_bytes"])
        scores = [interval(row["score"]) for row in curve_rows]
        marker, line, color = _STYLES[curve_rows[0]["way"]]
        axis.errorbar(
            [row["num_bytes"] for row in curve_rows],
            [score.mean for score in scores],
            yerr=error_bars(scores),
            marker=marker,
            linestyle=line,
            color=color,
            capsize=3,
            label=curve,
        )
    axis.set(title=f"{name} ({split['questions']} questions)", xlabel="bytes on the link")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(alpha=0.3)
