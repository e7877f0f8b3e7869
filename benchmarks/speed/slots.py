"""`python -m benchmarks.speed.slots`: concurrent requests that the slots of LLaVA-1.5-7B hold, by memory of the GPU.

Computed from shapes by the service's own division of the memory; nothing is run. Writes `slots.json` and `slots.md`
into --out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import torch

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.harness.tables import table
from llm_service.engine.cache_memory import DEVICE_ROOM_BYTES
from llm_service.engine.slot_cache import CacheShape
from llm_service.engine.slots import SlotClass, divide_positions

__all__ = ["WEIGHT_BYTES", "concurrent", "main", "markdown"]

_SHAPE: Final = CacheShape(num_layers=32, num_heads=32, head_dim=128, dtype=torch.float16)
_CONTEXT: Final = 4096
_TEXT: Final = 60


def _weight_bytes() -> int:
    """Language model and projector of LLaVA-1.5-7B in half precision, norms and biases left out."""
    width, inner, vocabulary, layers, vision = 4096, 11008, 32064, 32, 1024
    layer = 4 * width**2 + 3 * width * inner
    return 2 * (2 * vocabulary * width + layers * layer + vision * width + width**2)


WEIGHT_BYTES: Final = _weight_bytes()


def concurrent(classes: Sequence[SlotClass], num_positions: int) -> int:
    """Requests of so many positions that the slots hold at once."""
    return sum(slot_class.count for slot_class in classes if slot_class.length >= num_positions)


def _row(gib: int, visual: int, max_tokens: int, max_batch_size: int) -> dict[str, Any]:
    positions = (gib * 2**30 - WEIGHT_BYTES - DEVICE_ROOM_BYTES) // _SHAPE.position_bytes
    classes = divide_positions(positions, _CONTEXT, max_batch_size)
    needed = _TEXT + visual + max_tokens - 1
    return {
        "gib": gib,
        "visual_tokens": visual,
        "positions": needed,
        "slots": {str(slot_class.length): slot_class.count for slot_class in classes},
        "concurrent": min(max_batch_size, concurrent(classes, needed)),
        "whole_context": min(max_batch_size, positions // _CONTEXT),
    }


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    rows = [
        [
            f"{row['gib']} GiB",
            str(row["visual_tokens"]),
            f"{row['positions']:,}",
            ", ".join(f"{count} of {int(length):,}" for length, count in row["slots"].items()),
            str(row["concurrent"]),
            str(row["whole_context"]),
        ]
        for row in result["rows"]
    ]
    header = ["GPU", "visual tokens", "positions", "slots", "concurrent requests", "with slots of the whole context"]
    return (
        "# Concurrent requests by memory\n\n"
        f"`{result['provenance']['command']}`. LLaVA-1.5-7B in half precision, {result['text']} tokens of text and"
        f" max_tokens {result['max_tokens']},\n--max-batch-size {result['max_batch_size']}. Computed from shapes:"
        f" weights of {WEIGHT_BYTES / 2**30:.1f} GiB, 4 GiB left free, 0.5 MiB for each position.\n\n"
    ) + table(header, rows, num_labels=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Computes; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.slots", __doc__)
    parser.add_argument("--gib", nargs="+", type=positive, default=[24, 80], help="memory of the GPU")
    parser.add_argument("--visual-tokens", nargs="+", type=positive, default=[64, 576])
    parser.add_argument("--max-tokens", type=positive, default=128)
    parser.add_argument("--max-batch-size", type=positive, default=256)
    add_output(parser)
    args = parser.parse_args(argv)
    result = {
        "provenance": provenance("benchmarks.speed.slots"),
        "text": _TEXT,
        "max_tokens": args.max_tokens,
        "max_batch_size": args.max_batch_size,
        "rows": [
            _row(gib, visual, args.max_tokens, args.max_batch_size) for gib in args.gib for visual in args.visual_tokens
        ],
    }
    publish(args.out, "slots", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
