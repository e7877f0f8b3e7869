"""The report of `benchmarks.dispatches`, as Markdown tables."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import table

__all__ = ["markdown"]


def _total(counts: dict[str, Any]) -> str:
    return f"{'at least ' if counts['is_lower_bound'] else ''}{counts['total']:,}"


def _operations(subject: dict[str, Any]) -> str:
    batches = [str(batch) for batch in subject["batches"]]
    first, last = batches[0], batches[-1]
    rows = []
    for row in subject["rows"]:
        counts = row["counts"]
        ratio = counts[last]["total"] / counts[first]["total"]
        ends = [f"{counts[last][what]:,}" for what in ("reads", "exports")]
        rows.append([row["pruner"], *(_total(counts[batch]) for batch in batches), f"{ratio:.2f}", *ends])
    header = ["pruner", *batches, f"{last} / {first}", f"reads of values at {last}", f"to numpy or a list at {last}"]
    return f"## {subject['model']}: operations by number of images\n\n{table(header, rows, num_labels=1)}\n"


def _cache(subject: dict[str, Any]) -> str:
    last = str(subject["batches"][-1])
    rows = [
        [
            row["pruner"],
            *(f"{row[cache][last][what]:,}" for what in ("total", "copies") for cache in ("counts", "cached")),
        ]
        for row in subject["rows"]
        if row["cached"]
    ]
    if not rows:
        return ""
    header = ["pruner", "cache off", "cache on, empty", "copies, cache off", "copies, cache on, empty"]
    return (
        f"## {subject['model']}: the feature cache, {last} images\n\n"
        "Copies are calls of clone and copy_, which the operations contain.\n\n"
        f"{table(header, rows, num_labels=1)}\n"
    )


def _custom(result: dict[str, Any]) -> str:
    found: dict[str, tuple[int, int]] = {}
    for subject in result["subjects"]:
        last = str(subject["batches"][-1])
        for row in subject["rows"]:
            for name, entry in row["counts"][last]["custom"].items():
                found[name] = (entry["calls"], entry["inner"])
    title = "## Operators that are not torch's own\n\n"
    if not found:
        return f"{title}None ran: every operation above is one of aten or prims.\n\n"
    rows = [[name, f"{calls:,}", f"{inner / calls:.1f}"] for name, (calls, inner) in sorted(found.items())]
    return (
        f"{title}The operations inside them are added above. Where torch sees none, a count above is a lower bound.\n\n"
        f"{table(['operator', 'calls', 'operations inside each'], rows, num_labels=1)}\n"
    )


def _launches(result: dict[str, Any]) -> str:
    rows = [
        [
            subject["model"],
            row["pruner"],
            batch,
            *(f"{launches[what]:,}" for what in ("kernels", "copies", "waits", "busy_ms")),
        ]
        for subject in result["subjects"]
        for row in subject["rows"]
        for batch, launches in row["launches"].items()
    ]
    title = "## Kernels on a CUDA device\n\n"
    if not rows:
        return f"{title}Not measured: the run had no CUDA device.\n"
    header = ["model", "pruner", "images", "kernels", "copies and fills", "waits of the CPU", "device busy, ms"]
    return title + table(header, rows, num_labels=2)


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    low, high = result["text_ids"]
    head = (
        "# Operations of a batch in the encoder\n\n"
        f"{origin(result, packages=['torch', 'transformers'])} Device of the towers: {result['device']}.\n\n"
        "Torch operations that `EncoderEngine.run` dispatches, counted by a dispatch mode: one image and one question\n"
        f"a request, {low} to {high} text ids, {result['keep']} visual tokens kept, every image different. Decoding is"
        " not counted. A view counts\nlike a kernel. A read of a value stops the CPU until a GPU has computed it."
        " Compiled functions are counted as they\nare written.\n\n"
    )
    tables = "".join(_operations(subject) + _cache(subject) for subject in result["subjects"])
    return head + tables + _custom(result) + _launches(result)
