"""The report of `benchmarks.link`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import table

__all__ = ["UNPRUNED", "report"]

# Visual tokens before the projector are what Fovea sends; after it, what a split behind the projector would send.
UNPRUNED: Final = {
    "all 576 before the projector, as float16": (576, 1024, "float16"),
    "all 576 after the projector, as float16": (576, 4096, "float16"),
}


def _table(rows: Sequence[dict[str, Any]]) -> str:
    return table(list(rows[0]), [[f"{value}" for value in row.values()] for row in rows], num_labels=1).rstrip()


def _ratios(transfers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bytes on the link and seconds of each unpruned message over those of the kept tokens."""
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
    """Images an hour that each Mbit/s carries: 3,600 s over the time that the measured bytes take."""
    bytes_each = {f"LLaVA-1.5-7B, {row['what']}": row["link_bytes"] for row in result.get("transfers", [])}
    for row in result.get("answers", []):  # the last rate counts
        bytes_each[f"small world, {row['way']}"] = row["bytes_to_cloud"]
    return [
        {"what": what, "bytes an image": f"{size:,}", "images an hour a Mbit/s": f"{3600e6 / 8 / size:,.0f}"}
        for what, size in bytes_each.items()
    ]


def report(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    sections = [*_head(result), *_sections(result)]
    return "\n\n".join(sections) + "\n"


def _head(result: dict[str, Any]) -> list[str]:
    return [
        "# A narrow link between edge and cloud",
        f"{origin(result)} Two network namespaces of one machine, `tc tbf` in each"
        " direction, no propagation delay; gRPC without TLS. Bytes are those of the interface, headers of Ethernet, IP,"
        " TCP, HTTP and gRPC included.",
    ]


def _sections(result: dict[str, Any]) -> list[str]:
    options, sections = result["options"], list[str]()
    if "answers" in result:
        sections += [
            "## Answers in the small world",
            f"{result['questions']} questions about JPEG images of {result['image_bytes']:,} bytes on average,"
            f" caches bypassed. Latency at a client at the edge and bytes: one question at a time. Answers a minute:"
            f" {options['concurrency']} clients. All processes share this machine's cores, so on a wide link the time"
            " of the models dominates.",
            _table(result["answers"]),
        ]
    if "transfers" in result:
        sections += [
            "## Messages of LLaVA-1.5-7B's size, without a model",
            f"At {options['transfer_mbit_s']:g} Mbit/s, median of {options['transfers']}; 64 tokens x 1024 channels"
            " against all 576, before the projector (1024) and after it (4096). The features are random numbers; real"
            " ones compress differently.",
            _table(result["transfers"]),
            _table(_ratios(result["transfers"])),
        ]
    if sizing := _sizing(result):
        sections += [
            "## Sizing",
            "Computed from the bytes above, for a link that carries nothing else and is never idle:",
            _table(sizing),
        ]
    if "cut" in result:
        sections += [
            "## A link that is cut",
            "The link is cut after the first piece of a streamed answer and comes back; the gateway continues the"
            " answer from the visual tokens that it has kept.",
            _table([result["cut"]]),
        ]
    return sections
