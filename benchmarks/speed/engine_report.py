"""The report of `benchmarks.engine`: requests and tokens a second, time to first token, and the effect of pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.harness.plots import pyplot, save_figure
from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import Spread, table

__all__ = ["ENGINES", "markdown", "plot", "summary"]

ENGINES: Final = ("transformers", "vllm")
_BUDGETS: Final = ("unpruned", "pruned")
EngineRun = dict[str, Any]
Rows = list[dict[str, Any]]


def summary(result: dict[str, Any]) -> Rows:
    """A row for each engine and number of clients: rates of both budgets, and their ratio over pairs of runs.

    A pair is an unpruned and a pruned run of the same repeat, right after each other. Of n pairs the lowest ratio is
    below the median ratio with probability 1 - 2^-n, for any distribution of the noise.
    """
    most, least = result["budgets"]
    rows = []
    for engine, clients in sorted({(run["engine"], run["clients"]) for run in result["runs"]}):
        runs = [run for run in result["runs"] if (run["engine"], run["clients"]) == (engine, clients)]
        unpruned, pruned = (
            sorted((run for run in runs if run["kept"] == kept), key=lambda run: (run["round"], run["repeat"]))
            for kept in (most, least)
        )
        ratios = [slow["seconds"] / fast["seconds"] for slow, fast in zip(unpruned, pruned, strict=True)]
        rows.append(
            {
                "engine": engine,
                "clients": clients,
                "unpruned": _cell(unpruned),
                "pruned": _cell(pruned),
                "speedup": {**Spread.of(ratios).summary(), "pairs": len(ratios)},
            }
        )
    return rows


def _cell(runs: list[EngineRun]) -> dict[str, Any]:
    def rates(what: str) -> dict[str, float]:
        return Spread.of([run[what] / run["seconds"] for run in runs]).summary()

    first = np.concatenate([run["first_token_ms"] for run in runs])
    p50, p95 = np.percentile(first, [50, 95])
    return {
        "requests_per_s": rates("requests"),
        "tokens_per_s": rates("tokens"),
        "first_token_ms": {"p50": round(float(p50), 1), "p95": round(float(p95), 1)},
    }


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown: tables, and whether pruning ever lowered throughput."""
    rows = result["summary"]
    most, least = result["budgets"]
    sections = [
        _head(result),
        "## Requests a second\n\n" + _rates(rows, "requests_per_s", 2, most, least),
        "## Tokens a second\n\n" + _rates(rows, "tokens_per_s", 1, most, least),
        "## Time to first token, ms\n\n" + _first_tokens(rows, most, least),
        "All answers of all runs. All clients start at once, so with many of them the time is that of waiting for the"
        " prefills of the others.\n",
        "## Does pruning ever lower throughput?\n\n" + _pairs(rows),
    ]
    if {row["engine"] for row in rows} == set(ENGINES):
        sections.append("## vLLM / transformers, requests a second\n\n" + _engines(rows))
    return "\n".join(sections)


def _head(result: dict[str, Any]) -> str:
    model, pairs = result["model"], result["summary"][0]["speedup"]["pairs"]
    most, least = result["budgets"]
    return (
        f"# Engines, pruned and unpruned\n\n{origin(result, packages=['torch', 'transformers', 'vllm'])}\n\n"
        f"A random LLaVA: {model['layers']} layers of width {model['hidden_size']}"
        f" ({model['layer_parameters'] / 1e6:.0f} million parameters), {model['dtype']}. Each request has"
        f" {result['words']} tokens of text, an image of its own of {most} or {least} visual tokens, and an answer of"
        f" {result['answer_tokens']} tokens. Each engine computes with {result['threads']} of the cores, vLLM without"
        " compilation (`enforce_eager`). One engine runs at a time; the engines alternate. Pruned and unpruned runs"
        f" follow each other directly, {pairs} times. Median [lowest, highest] of the {pairs}.\n"
    )


def _label(row: dict[str, Any]) -> tuple[str, str]:
    return row["engine"], str(row["clients"])


def _rates(rows: Rows, what: str, digits: int, most: int, least: int) -> str:
    cells = [(*_label(row), *(Spread(**row[budget][what]).text(digits) for budget in _BUDGETS)) for row in rows]
    return table(["engine", "clients", f"{most} tokens", f"{least} tokens"], cells, num_labels=1)


def _first_tokens(rows: Rows, most: int, least: int) -> str:
    columns = [(budget, percentile) for budget in _BUDGETS for percentile in ("p50", "p95")]
    cells = [
        (*_label(row), *(f"{row[budget]['first_token_ms'][percentile]:.0f}" for budget, percentile in columns))
        for row in rows
    ]
    return table(["engine", "clients", f"{most}: p50", "p95", f"{least}: p50", "p95"], cells, num_labels=1)


def _pairs(rows: Rows) -> str:
    pairs = rows[0]["speedup"]["pairs"]
    keys = ("median", "lowest", "highest")
    cells = [(*_label(row), *(f"{row['speedup'][key]:.2f}" for key in keys)) for row in rows]
    return (
        f"{_verdict(rows)} The lowest of {pairs} pairs is below the median ratio with probability {1 - 2**-pairs:.3f}."
        "\n\n" + table(["engine", "clients", "pruned / unpruned", "lowest pair", "highest pair"], cells, num_labels=1)
    )


def _verdict(rows: Rows) -> str:
    slower = [f"{row['engine']} at {row['clients']}" for row in rows if row["speedup"]["lowest"] < 1]
    if slower:
        return f"**In some pair of runs, yes: {', '.join(slower)}.**"
    return "No: every pruned run of every cell was faster than the unpruned run of its pair."


def _engines(rows: Rows) -> str:
    """vLLM over transformers, from medians: the engines run at different times, so there are no pairs."""

    def rate(engine: str, clients: int, budget: str) -> float:
        (row,) = (row for row in rows if (row["engine"], row["clients"]) == (engine, clients))
        return float(row[budget]["requests_per_s"]["median"])

    def ratios(clients: int) -> list[str]:
        return [f"{rate('vllm', clients, b) / rate('transformers', clients, b):.2f}" for b in _BUDGETS]

    lines = [(str(clients), *ratios(clients)) for clients in sorted({row["clients"] for row in rows})]
    return table(["clients", "unpruned", "pruned"], lines, num_labels=0)


def plot(result: dict[str, Any], path: Path) -> None:
    """Requests a second, and their ratio, over the number of clients; bars reach from the lowest to the highest."""
    plt = pyplot()
    most, least = result["budgets"]
    figure, (rates, ratios) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    ratios.axhline(1, color="0.5", linestyle="--")
    for color, engine in zip(("tab:blue", "tab:orange"), ENGINES, strict=True):
        rows = [row for row in result["summary"] if row["engine"] == engine]
        if not rows:  # the engine was not measured
            continue
        clients = [row["clients"] for row in rows]
        for budget, kept, style in (("unpruned", most, "s--"), ("pruned", least, "o-")):
            _bars(rates, clients, [row[budget]["requests_per_s"] for row in rows], style, color, f"{engine}, {kept}")
        _bars(ratios, clients, [row["speedup"] for row in rows], "o-", color, engine)
    rates.set(title="requests a second", ylabel="requests / s")
    ratios.set(title=f"{least} over {most} visual tokens", ylabel="ratio of requests / s", ylim=(0, None))
    ticks = sorted({row["clients"] for row in result["summary"]})
    for axis in (rates, ratios):
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.set_xlabel("clients")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    save_figure(figure, path)


def _bars(axis: Any, clients: list[int], values: list[dict[str, float]], style: str, color: str, label: str) -> None:
    low, middle, high = (np.array([value[name] for value in values]) for name in ("lowest", "median", "highest"))
    axis.errorbar(clients, middle, yerr=[middle - low, high - middle], fmt=style, color=color, label=label, capsize=3)
