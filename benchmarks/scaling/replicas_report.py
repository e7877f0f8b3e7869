"""The report of `benchmarks.replicas`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness.intervals import Interval, clustered_ratio
from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import table

__all__ = ["cells_of", "markdown", "ratio"]


def cells_of(result: dict[str, Any], shape: str) -> list[dict[str, Any]]:
    """The closed-loop runs of a shape, one for each round."""
    return [cell for cell in result["closed_loop"] if cell["shape"] == shape]


def ratio(result: dict[str, Any], shape: str, base: str = "1x1") -> Interval:
    """Throughput of a shape over that of another; the interval resamples rounds."""
    values, bases = (
        np.array([cell["per_second"] for cell in sorted(cells_of(result, name), key=lambda cell: cell["round"])])
        for name in (shape, base)
    )
    return clustered_ratio(values, bases, np.arange(len(values)))


def _median(cells: Sequence[dict[str, Any]]) -> float:
    return float(np.median([second for cell in cells for second in cell["seconds"]]))


def _busy(cells: Sequence[dict[str, Any]], name: str, cores: float) -> str:
    """Share of its cap that the busiest replica of a stage used, warm-up included."""
    used = max(sum(cell["cpu_s"].get(f"{name} {number}", 0.0) for cell in cells) for number in (1, 2))
    return f"{100 * used / cores / sum(cell['cpu_s']['wall'] for cell in cells):.0f} %"


def _closed_loop(result: dict[str, Any]) -> str:
    scenario, rows = result["scenario"], []
    for shape in dict.fromkeys(cell["shape"] for cell in result["closed_loop"]):
        cells = cells_of(result, shape)
        rates = [cell["per_second"] for cell in cells]
        others = sum(cell["cpu_s"]["gateway"] + cell["cpu_s"]["clients"] for cell in cells)
        rows.append(
            (
                shape,
                f"{np.mean(rates):.2f}",
                f"{min(rates):.2f} to {max(rates):.2f}",
                "1" if shape == "1x1" else ratio(result, shape).text(),
                f"{_median(cells):.2f}",
                _busy(cells, "encoder", scenario["encoder_cores"]),
                _busy(cells, "llm", scenario["llm_cores"]),
                f"{others / sum(cell['cpu_s']['wall'] for cell in cells):.2f}",
            )
        )
    header = (
        "encoders x LLMs",
        "answers/s",
        "over the rounds",
        "to 1x1",
        "p50, s",
        "encoder's cap used",
        "LLM's cap used",
        "gateway and clients, cores",
    )
    return table(header, rows, num_labels=1)


def _below(result: dict[str, Any]) -> str:
    rows = [
        (
            cell["shape"],
            f"{cell['rate']:.1f}",
            str(cell["finished"]),
            f"{np.percentile(cell['seconds'], 50):.2f}",
            f"{np.percentile(cell['seconds'], 95):.2f}",
        )
        for cell in result["below_capacity"]
    ]
    return table(("encoders x LLMs", "arrivals/s", "answers", "p50, s", "p95, s"), rows, num_labels=1)


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    scenario, caps = result["scenario"], result["caps"]
    rounds = 1 + max(cell["round"] for cell in result["closed_loop"])
    tokens = scenario["request"]["max_tokens"]
    length = f"{tokens[0]}" if len(set(tokens)) == 1 else f"{min(tokens)} to {max(tokens)}"
    stage = {"encoder": "the encoder", "llm": "the LLM service"}[scenario["bottleneck"]]
    return "\n\n".join(
        [
            f"# Replicas where {stage} is the bottleneck",
            f"{origin(result)} Real processes and gRPC on one machine. Each encoder service is held to"
            f" {scenario['encoder_cores']:g} of a core, each LLM service to {scenario['llm_cores']:g}, by {caps['by']}."
            f" A process of two busy threads with a cap of {caps['wanted']:g} got {caps['two_busy_threads_got']:.3f}."
            f" Gateways and clients have no cap. A random model of 576 visual tokens (`benchmarks/checkpoints`), a"
            f" ninth kept; questions about {scenario['request']['images']} image(s), answers of {length} token(s); no"
            " caches.",
            f"## {scenario['clients']} clients in a closed loop",
            f"{rounds} rounds; the shapes alternate. Ratios with the 95 % interval of a bootstrap over the rounds.",
            _closed_loop(result).rstrip(),
            "## Random arrivals, below capacity",
            _below(result),
        ]
    )
