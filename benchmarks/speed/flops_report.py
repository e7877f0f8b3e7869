"""The report of `benchmarks.flops`, as Markdown tables."""

from __future__ import annotations

import itertools
from typing import Any, Final

from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import table

__all__ = ["markdown"]

_UNITS: Final = ((1e12, "T", "10^12"), (1e9, "G", "10^9"), (1e6, "M", "10^6"))


def _unit(flops: float) -> tuple[float, str, str]:
    return next((unit for unit in _UNITS if flops >= unit[0]), _UNITS[-1])


def _pair(cell: dict[str, Any] | None, what: str, scale: float, digits: int) -> str:
    """A cell with both countings where their printed figures differ."""
    if cell is None:
        return "-"
    figures = [f"{cell[convention][what] / scale:.{digits}f}" for convention in ("processed", "after")]
    return " / ".join(dict.fromkeys(figures))


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
        "`own` is a budget as the method's authors count it, `average` the mean number of tokens that a layer attends\n"
        "over. A dash: the method cannot reach the budget, or does not apply.\n\n"
        f"{table(header, cost, num_labels=2)}\n"
        "## Visual tokens, mean over the layers\n\n"
        f"{table(header, average, num_labels=2)}\n"
        "## Visual tokens that the layers attend over: count x layers\n\n"
        f"{table(header, schedules, num_labels=2)}"
    )


def _image(image: dict[str, Any]) -> str:
    columns: dict[str, dict[str, int]] = image["columns"]
    scale, letter, power = _unit(max(max(column.values()) for column in columns.values()) / 1000)
    rows = [
        [name, *(f"{column[name] / scale:.3f}" if column[name] else "" for column in columns.values())]
        for name in next(iter(columns.values()))
    ]
    rows.append(["sum", *(f"{sum(column.values()) / scale:.3f}" for column in columns.values())])
    desap = list(columns.values())[-1]
    return (
        f"\n## One image and a question of {image['text_tokens']} tokens, {letter}FLOPs ({power})\n\n"
        f"{table(['step', *columns], rows, num_labels=1)}\n"
        f"The last layer's FFN, which is never run here, is {image['last_ffn'] / scale:.3f} of the"
        f" {image['last_layer'] / scale:.3f} of the whole layer;\n"
        f"what DeSAP computes of that layer instead is {image['last_layer_in_desap'] / scale:.3f}. FCMA is"
        f" {desap['FCMA']:.3e} multiply-adds; with multiplications and\n"
        f"additions apart, as the paper counts here alone, {image['fcma_as_the_paper_counts']:.3e}.\n"
        "FlowCut runs the later layers of the vision tower on fewer tokens; their number depends on the image.\n"
    )


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    model = result["language_model"]
    head = (
        "# Multiply-adds by method and budget\n\n"
        f"{origin(result)} Arithmetic, nothing was run or timed.\n"
        "Per layer 4 n d^2 + 2 n^2 d + 3 n d m (arXiv 2604.11240, eq. 6), a multiply-add counted once, visual tokens\n"
        f"alone: d {model['hidden_size']}, m {model['intermediate_size']}, {model['num_layers']} layers. Text of the"
        " prompt, norms, softmaxes and the\nselection of tokens inside the language model are not counted.\n\n"
    )
    image = result["image"]
    return head + _methods(result) + ("" if image is None else _image(image))
