"""`python -m benchmarks.dispatches`: operations that the encoder dispatches for 1, 8 and 32 images, by pruner.

The shipped model runs with every pruner, once with the feature cache off and once with it on and empty. A LLaVA-NeXT
with five tiles an image and a Qwen2.5-VL run with the pruners that they take. On a CUDA device torch's profiler also
counts the kernels. Writes `dispatches.json` and `dispatches.md` into --out.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from transformers.utils import logging

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.speed.dispatch_counts import count_dispatches, recorded
from benchmarks.speed.dispatches_report import markdown
from benchmarks.speed.encoder_requests import LENGTHS, Subject, llava_next_tiny, qwen3_tiny, qwen_tiny, shipped
from benchmarks.speed.kernel_launches import measure_launches
from encoder_service.pruners import PRUNERS
from fovea.modeling.compute import resolve_device

__all__ = ["main"]

_CACHE_BYTES: Final = 2**30
_KEEP: Final = 16


def _rows(subject: Subject, pruners: Sequence[str], batches: Sequence[int], *, cached: bool) -> list[dict[str, Any]]:
    """Counts of each pruner that the model takes."""
    rows = []
    for pruner in pruners:
        if pruner in subject.pruners:
            rows.append(_row(subject, pruner, batches, cached=cached))
            print(f"{subject.name}, {pruner}", file=sys.stderr, flush=True)
    return rows


def _row(subject: Subject, pruner: str, batches: Sequence[int], *, cached: bool) -> dict[str, Any]:
    """Counts of one pruner by number of images; with `cached` also those with an empty feature cache."""
    engine = subject.engine()
    engine.run([engine.prepare(request) for request in subject.requests(1, pruner, keep=_KEEP, seed=1)])
    row: dict[str, Any] = {"pruner": pruner, "counts": {}, "cached": {}, "launches": {}, "operators": {}}
    for batch in batches:
        requests = subject.requests(batch, pruner, keep=_KEEP)
        counts = count_dispatches(engine, requests)
        row["counts"][str(batch)], row["operators"] = recorded(counts), dict(counts.operators)
        if cached:
            row["cached"][str(batch)] = recorded(count_dispatches(subject.engine(_CACHE_BYTES), requests))
        if subject.model.device.type == "cuda":
            prepared = [engine.prepare(request) for request in requests]
            row["launches"][str(batch)] = measure_launches(functools.partial(engine.run, prepared))
    return row


def _measure(device: str, pruners: Sequence[str], batches: Sequence[int], scratch: Path) -> list[dict[str, Any]]:
    others = [batch for batch in batches if batch <= 8]  # 8 images of five tiles fill a forward
    subjects = [
        (shipped(device), batches, True),
        (llava_next_tiny(scratch, device), others, False),
        (qwen_tiny(scratch, device), others, False),
        (qwen3_tiny(scratch, device), others, False),
    ]
    return [
        {"model": subject.name, "batches": list(sizes), "rows": _rows(subject, pruners, sizes, cached=cached)}
        for subject, sizes, cached in subjects
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Counts; prints the tables, and writes them into --out."""
    parser = command_parser("benchmarks.dispatches", __doc__)
    parser.add_argument("--pruners", nargs="+", choices=list(PRUNERS), default=list(PRUNERS), metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=positive, default=[1, 8, 32], help="numbers of images of a batch")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add_output(parser, pruners=["none", "desap"], batches=[1, 2])
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    device = resolve_device(args.device).type
    with tempfile.TemporaryDirectory() as scratch:
        subjects = _measure(device, args.pruners, args.batches, Path(scratch))
    result = {
        "provenance": provenance("benchmarks.dispatches"),
        "device": device,
        "keep": _KEEP,
        "text_ids": [LENGTHS[0], LENGTHS[-1]],
        "subjects": subjects,
    }
    publish(args.out, "dispatches", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
