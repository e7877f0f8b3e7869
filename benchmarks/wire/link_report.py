"""The report of `benchmarks.link`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.harness.report import table

__all__ = ["UNPRUNED", "report"]

# Before the projector: what Fovea ships; after it: what a split behind it would.
UNPRUNED: Final = {
    "all 576 before the projector, as float16": (576, 1024, "float16"),
    "all 576 after the projector, as float16": (576, 4096, "float16"),
}


def _table(rows: Sequence[dict[str, Any]]) -> str:
    return table(list(rows[0]), [[f"{value}" for value in row.values()] for row in rows], num_labels=1).rstrip()


def _ratios(transfers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times less, in bytes on the link and in seconds, than each of the unpruned messages."""
    whole = [row for row in transfers if row["what"] in UNPRUNED]
    return [
        {
            "dtype": row["dtype"],
            "than": f"576 x {other['shape'][1]} float16",
            "bytes": f"{other['link_bytes'] / row['link_bytes']:.1f}x",
            "seconds": f"{other['p50_s'] / row['p50_s']:.1f}x",
        }
        for row in transfers
        if row["what"] not in UNPRUNED
        for other in whole
    ]


def _sizing(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Pictures an hour that each Mbit/s carries: 3,600 s over the time that the measured bytes take. Computed."""
    bytes_each = {f"LLaVA-1.5-7B, {row['what']}": row["link_bytes"] for row in result.get("transfers", [])}
    for row in result.get("answers", []):  # the last rate counts
        bytes_each[f"small world, {row['way']}"] = row["bytes_to_cloud"]
    return [
        {"what": what, "bytes a picture": f"{size:,}", "pictures an hour a Mbit/s": f"{3600e6 / 8 / size:,.0f}"}
        for what, size in bytes_each.items()
    ]


def report(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    facts, options = result["provenance"], result["options"]
    parts = [
        "# A narrow link between edge and cloud",
        f"`{facts['command']}`, commit {facts['commit']}, {facts['date']}, {facts['machine']['processor']},"
        f" {facts['machine']['cores']} cores, no accelerator. Two network namespaces of one machine, `tc tbf` in each"
        " direction, no propagation delay; gRPC without TLS. Bytes are those of the interface, headers of Ethernet, IP,"
        " TCP, HTTP and gRPC included.",
    ]
    if "answers" in result:
        parts += [
            "## Answers in the small world",
            f"{result['questions']} questions about JPEG pictures of {result['picture_bytes']:,} bytes on average,"
            f" caches bypassed. Latency, seen by a client at the edge, and bytes one at a time; answers per minute with"
            f" {options['concurrency']} clients. All processes share this machine's cores: where the link is wide it is"
            " the models' time that shows.",
            _table(result["answers"]),
        ]
    if "transfers" in result:
        parts += [
            "## Messages of LLaVA-1.5-7B's size, without a model",
            f"At {options['transfer_mbit_s']:g} Mbit/s, median of {options['transfers']}; 64 tokens x 1024 channels"
            " against all 576, before the projector (1024) and after it (4096). Random numbers: what a coder makes of"
            " real features is another matter.",
            _table(result["transfers"]),
            _table(_ratios(result["transfers"])),
        ]
    if sizing := _sizing(result):
        parts += [
            "## Sizing",
            "Computed from the bytes above, for a link that carries nothing else and is never idle:",
            _table(sizing),
        ]
    if "cut" in result:
        parts += [
            "## A link that is cut",
            "The link is cut after the first piece of a streamed answer and comes back; the gateway takes the answer up"
            " again from the visual tokens that it has.",
            _table([result["cut"]]),
        ]
    return "\n\n".join(parts) + "\n"
