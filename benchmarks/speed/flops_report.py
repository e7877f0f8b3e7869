"""The multiply-adds as Markdown tables."""

from __future__ import annotations

import itertools
from typing import Any, Final

from benchmarks.harness.report import table

__all__ = ["markdown"]

_UNITS: Final = ((1e12, "T", "10^12"), (1e9, "G", "10^9"), (1e6, "M", "10^6"))


def _unit(flops: float) -> tuple[float, str, str]:
    return next((unit for unit in _UNITS if flops >= unit[0]), _UNITS[-1])


def _pair(cell: dict[str, Any] | None, what: str, scale: float, digits: int) -> str:
    """Both countings where they differ as they are printed."""
    if cell is None:
        return "-"
    shown = [f"{cell[convention][what] / scale:.{digits}f}" for convention in ("processed", "after")]
    return " / ".join(dict.fromkeys(shown))


def _layers(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    runs = itertools.groupby(cell["processed"]["tokens_by_layer"])
    return ", ".join(f"{count} x {len(list(run))}" for count, run in runs)


def _methods(result: dict[str, Any]) -> str:
    labels = [setting["label"] for setting in result["settings"]]
    rows = result["rows"]
    scale, letter, power = _unit(rows[0]["cells"][0]["processed"]["flops"])
    cost = [[row["method"], row["budget"], *(_pair(cell, "flops", scale, 3) for cell in row["cells"])] for row in rows]
    average = [[row["method"], row["budget"], *(_pair(cell, "average", 1, 1) for cell in row["cells"])] for row in rows]
    schedules = [
        [row["method"], row["budget"], *map(_layers, row["cells"])] for row in rows if row["side"] != "encoder"
    ]
    header = ["method", "budget", *labels]
    return (
        f"## Prefill of the visual tokens in the language model, {letter}FLOPs ({power})\n\n"
        "Two figures where the countings differ: tokens that a layer attends over / tokens left after it.\n"
        "`own` is a budget as the method's authors count it, `average` the mean over the layers of what they attend\n"
        "over. A dash: out of the method's reach, or not made for it.\n\n"
        f"{table(header, cost, num_labels=2)}\n"
        "## Visual tokens, mean over the layers\n\n"
        f"{table(header, average, num_labels=2)}\n"
        "## Visual tokens that the layers attend over: count x layers\n\n"
        f"{table(header, schedules, num_labels=2)}"
    )


def _picture(picture: dict[str, Any]) -> str:
    columns: dict[str, dict[str, int]] = picture["columns"]
    scale, letter, power = _unit(max(max(column.values()) for column in columns.values()) / 1000)
    rows = [
        [name, *(f"{column[name] / scale:.3f}" if column[name] else "" for column in columns.values())]
        for name in next(iter(columns.values()))
    ]
    rows.append(["sum", *(f"{sum(column.values()) / scale:.3f}" for column in columns.values())])
    desap = list(columns.values())[-1]
    return (
        f"\n## One picture and a question of {picture['text_tokens']} tokens, {letter}FLOPs ({power})\n\n"
        f"{table(['part', *columns], rows, num_labels=1)}\n"
        f"The last layer's FFN, which is never run here, is {picture['last_ffn'] / scale:.3f} of the"
        f" {picture['last_layer'] / scale:.3f} of the whole layer;\n"
        f"what DeSAP computes of that layer instead is {picture['last_layer_in_desap'] / scale:.3f}. FCMA is"
        f" {desap['FCMA']:.3e} multiply-adds; with multiplications and\n"
        f"additions apart, as the paper counts here alone, {picture['fcma_as_the_paper_counts']:.3e}.\n"
        "FlowCut runs the later layers of the vision tower on fewer tokens; how many depends on the picture.\n"
    )


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    facts, model = result["provenance"], result["language_model"]
    head = (
        "# Multiply-adds by method and budget\n\n"
        f"`{facts['command']}`, commit {facts['commit']}, {facts['date']}. Arithmetic, nothing was run or timed.\n"
        "Per layer 4 n d^2 + 2 n^2 d + 3 n d m (arXiv 2604.11240, eq. 6), a multiply-add counted once, visual tokens\n"
        f"alone: d {model['hidden_size']}, m {model['intermediate_size']}, {model['num_layers']} layers. Text of the"
        " prompt, norms, softmaxes and what a method\nspends on choosing inside the language model are not counted.\n\n"
    )
    picture = result["picture"]
    return head + _methods(result) + ("" if picture is None else _picture(picture))
