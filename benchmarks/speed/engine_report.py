"""The report of `benchmarks.engine`: requests and tokens a second, first tokens, and what pruning makes of them."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.harness.report import table

__all__ = ["ENGINES", "markdown", "plot", "summary"]

ENGINES: Final = ("transformers", "vllm")
Run = dict[str, Any]


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each engine and number of clients: rates of both budgets, and their ratio over pairs of runs.

    A pair is an unpruned and a pruned run of the same repeat, right after each other. Of n pairs the lowest ratio is
    below the median ratio with probability 1 - 2^-n, whatever the noise is distributed like.
    """
    most, least = result["budgets"]
    rows = []
    for engine, clients in _in_order(result["runs"], "engine", "clients"):
        runs = [run for run in result["runs"] if (run["engine"], run["clients"]) == (engine, clients)]
        whole, pruned = (
            sorted((run for run in runs if run["kept"] == kept), key=lambda run: (run["round"], run["repeat"]))
            for kept in (most, least)
        )
        ratios = [u["seconds"] / p["seconds"] for u, p in zip(whole, pruned, strict=True)]
        rows.append(
            {
                "engine": engine,
                "clients": clients,
                "unpruned": _cell(whole),
                "pruned": _cell(pruned),
                "speedup": {
                    "median": round(statistics.median(ratios), 3),
                    "lowest": round(min(ratios), 3),
                    "highest": round(max(ratios), 3),
                    "pairs": len(ratios),
                },
            }
        )
    return rows


def _in_order(runs: list[Run], *keys: str) -> list[tuple[Any, ...]]:
    return sorted({tuple(run[key] for key in keys) for run in runs})


def _cell(runs: list[Run]) -> dict[str, Any]:
    def rates(what: str) -> dict[str, float]:
        values = [run[what] / run["seconds"] for run in runs]
        spread = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
        return {name: round(value, 3) for name, value in spread.items()}

    first = np.concatenate([run["first_token_ms"] for run in runs])
    p50, p95 = np.percentile(first, [50, 95])
    return {
        "requests_per_s": rates("requests"),
        "tokens_per_s": rates("tokens"),
        "first_token_ms": {"p50": round(float(p50), 1), "p95": round(float(p95), 1)},
    }


def _spread(values: dict[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} [{values['lowest']:.{digits}f}, {values['highest']:.{digits}f}]"


def markdown(result: dict[str, Any]) -> str:
    """Tables, and the answer to whether pruning ever lowered throughput."""
    facts, model, rows = result["provenance"], result["model"], result["summary"]
    most, least = result["budgets"]
    pairs = rows[0]["speedup"]["pairs"]
    packages = [name for name in ("torch", "transformers", "vllm") if name in facts["versions"]]
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in packages)
    text = (
        "# Engines, pruned and unpruned\n\n"
        f"`{facts['command']}`, seed {result['seed']}, commit {facts['commit']}, {versions},"
        f" {facts['machine']['processor']}, {facts['machine']['cores']} cores, no accelerator, {facts['date']}.\n\n"
        f"A random LLaVA: {model['layers']} layers of width {model['hidden_size']}"
        f" ({model['layer_parameters'] / 1e6:.0f} million parameters), {model['dtype']}. Each request has"
        f" {result['words']} tokens of text, a picture of its own of {most} or {least} visual tokens, and an answer of"
        f" {result['answer_tokens']} tokens. Each engine computes with {result['threads']} of the cores, vLLM without"
        f" compilation (`enforce_eager`). One engine runs at a time, in turns; pruned and unpruned right after each"
        f" other, {pairs} times. Median [lowest, highest] of the {pairs}.\n\n"
    )
    for title, what, digits in (("Requests a second", "requests_per_s", 2), ("Tokens a second", "tokens_per_s", 1)):
        text += f"## {title}\n\n" + table(
            ["engine", "clients", f"{most} tokens", f"{least} tokens"],
            [
                (row["engine"], str(row["clients"]), *(_spread(row[b][what], digits) for b in ("unpruned", "pruned")))
                for row in rows
            ],
            num_labels=1,
        )
        text += "\n"
    text += "## Time to first token, ms\n\n" + table(
        ["engine", "clients", f"{most}: p50", "p95", f"{least}: p50", "p95"],
        [
            (
                row["engine"],
                str(row["clients"]),
                *(f"{row[b]['first_token_ms'][p]:.0f}" for b in ("unpruned", "pruned") for p in ("p50", "p95")),
            )
            for row in rows
        ],
        num_labels=1,
    )
    text += (
        "\nAll answers of all runs. As many clients start at once as there are, so that with many of them it is the"
        " time that a request waits for the others' prefills.\n\n"
        f"## Does pruning ever lower throughput?\n\n{_verdict(rows)} The lowest of {pairs} pairs is below the median"
        f" ratio with probability {1 - 2**-pairs:.3f}.\n\n"
    )
    text += table(
        ["engine", "clients", "pruned / unpruned", "lowest pair", "highest pair"],
        [
            (row["engine"], str(row["clients"]), *(f"{row['speedup'][k]:.2f}" for k in ("median", "lowest", "highest")))
            for row in rows
        ],
        num_labels=1,
    )
    engines = {row["engine"] for row in rows}
    return text + ("\n" + _engines(rows) if len(engines) == len(ENGINES) else "")


def _verdict(rows: list[dict[str, Any]]) -> str:
    failed = [f"{row['engine']} at {row['clients']}" for row in rows if row["speedup"]["lowest"] < 1]
    if failed:
        return f"**In some pair of runs, yes: {', '.join(failed)}.**"
    return "No: every pruned run of every cell was faster than the unpruned one beside it."


def _engines(rows: list[dict[str, Any]]) -> str:
    """vLLM over transformers, of medians: the engines do not run beside each other, so there are no pairs."""

    def rate(engine: str, clients: int, budget: str) -> float:
        (row,) = (row for row in rows if (row["engine"], row["clients"]) == (engine, clients))
        return float(row[budget]["requests_per_s"]["median"])

    def ratios(clients: int) -> list[str]:
        budgets = ("unpruned", "pruned")
        return [f"{rate('vllm', clients, b) / rate('transformers', clients, b):.2f}" for b in budgets]

    lines = [(str(clients), *ratios(clients)) for clients in sorted({row["clients"] for row in rows})]
    return "## vLLM / transformers, requests a second\n\n" + table(
        ["clients", "unpruned", "pruned"], lines, num_labels=0
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """Requests a second, and their ratio, over the number of clients; bars reach from the lowest to the highest."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    most, least = result["budgets"]
    figure, (rates, ratios) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    ratios.axhline(1, color="0.5", linestyle="--")
    for color, engine in zip(("tab:blue", "tab:orange"), ENGINES, strict=True):
        rows = [row for row in result["summary"] if row["engine"] == engine]
        if not rows:  # it was not asked for
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
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axis: Any, clients: list[int], values: list[dict[str, float]], style: str, color: str, label: str) -> None:
    low, middle, high = (np.array([value[name] for value in values]) for name in ("lowest", "median", "highest"))
    axis.errorbar(clients, middle, yerr=[middle - low, high - middle], fmt=style, color=color, label=label, capsize=3)
