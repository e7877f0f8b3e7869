"""The report of `benchmarks.speed.prune`, as Markdown tables."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.timing import milliseconds

__all__ = ["markdown"]

_SHARES: Final = {"desap": 0.03, "fovea": 0.10}
"""Largest share of the tower's time, by pruner."""

_LINEAR: Final = 1.25
"""Largest exponent that counts as linear growth. Twice the exponent 1 would be quadratic."""

_GROWS_LINEARLY: Final = ("desap",)


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _time(result: dict[str, Any]) -> str:
    cells = result["cells"]
    rows = []
    for name, growth in result["growth"].items():
        share = cells[0]["shares"][name]
        bound = _SHARES.get(name)
        goals = [] if bound is None else [f"<= {bound:.0%} of the tower, {_verdict(share['median'] <= bound)}"]
        if name in _GROWS_LINEARLY:
            goals.append(f"linear, {_verdict(growth['time'] <= _LINEAR)}")
        times = [milliseconds(cell["seconds"][name], 2) for cell in cells]
        percent = Spread(**{key: 100 * value for key, value in share.items()}).text(2)
        rows.append([name, *times, f"{percent} %", f"{growth['time']:.2f}", "; ".join(goals)])
    tokens = [f"{cell['tokens']:,}" for cell in cells]
    header = ["pruner", *tokens, f"share of the tower at {tokens[0]}", "exponent", "goal"]
    tower = milliseconds(cells[0]["seconds"]["plain tower"], 2)
    return f"## Milliseconds by number of tokens\n\nThe plain tower: {tower}.\n\n{table(header, rows, num_labels=1)}\n"


def _memory(result: dict[str, Any]) -> str:
    rows = []
    for name, growth in result["growth"].items():
        peaks = [f"{cell['peak_bytes'][name] / 2**20:.1f}" for cell in result["cells"]]
        goal = f"linear, {_verdict(growth['memory'] <= _LINEAR)}" if name in _GROWS_LINEARLY else ""
        rows.append([name, *peaks, f"{growth['memory']:.2f}", goal])
    header = ["pruner", *(f"{cell['tokens']:,}" for cell in result["cells"]), "exponent", "goal"]
    return (
        f"## Peak memory beside the inputs, MiB\n\nMeasured by {result['memory_measured_by']}.\n\n"
        f"{table(header, rows, num_labels=1)}"
    )


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    return (
        f"# Pruning alone\n\n{origin(result, packages=['torch', 'transformers'])} Device: {result['device']},"
        f" {result['dtype']}, {result['threads']} threads; shapes of the tower: {result['shapes']};"
        f" {result['keep']} tokens kept; clock: {result['clock']}.\n\n"
        f"Medians of {result['num_rounds']} rounds in which the sides take turns, with the lowest and the highest. The"
        " exponent is that of the growth\nfrom the second-largest number of tokens to the largest: 1 is linear, 2 is"
        f" quadratic, and up to {_LINEAR:g} counts as linear.\n\n"
        f"{_time(result)}{_memory(result)}"
    )
