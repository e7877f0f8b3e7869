"""`python -m benchmarks.load`: time and peak memory of each service loading its part of a full-size checkpoint.

The checkpoints are those of `checkpoints/full_size.py`: bfloat16, sharded, zeros. Shards that a service does not need
are missing. Each load runs in a process of its own, which then reads every parameter once, so that memory that is
mapped but not yet touched counts as well. Zeros come from the page cache: a cold disk is slower.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from benchmarks.checkpoints import full_size
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.children import run_child
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import table

__all__ = ["main"]

_SERVICES: Final = ("encoder", "llm")
_GIB: Final = 2**30
_TIMEOUT_S: Final = 1800


def _tensors(service: str, checkpoint: str, text_tower: str) -> list[torch.Tensor]:
    """All tensors of a service's model."""
    if service == "encoder":
        from encoder_service import models
        from encoder_service.models.base import LoadOptions

        loaded: Any = models.load(checkpoint, LoadOptions(text_tower=text_tower, device="cpu", dtype="bfloat16"))
    else:
        from llm_service.models import load_model

        loaded = load_model(Path(checkpoint), device=torch.device("cpu"), dtype="bfloat16", attn_implementation="sdpa")
    attributes = vars(loaded).values()
    parameters = [p for value in attributes if isinstance(value, nn.Module) for p in value.parameters()]
    tensors = (*parameters, *(value for value in attributes if isinstance(value, torch.Tensor)))
    return list({id(tensor): tensor for tensor in tensors}.values())


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _child(service: str, checkpoint: str, text_tower: str) -> None:
    """Loads and touches the parameters, and prints time and memory as the last line."""
    empty = _peak_bytes()
    start = time.perf_counter()
    tensors = _tensors(service, checkpoint, text_tower)
    load_s = time.perf_counter() - start
    with torch.inference_mode():
        for tensor in tensors:
            tensor.view(-1).view(torch.int16).max()
    memory = {"tensor_bytes": sum(t.nbytes for t in tensors), "empty_bytes": empty, "peak_bytes": _peak_bytes()}
    print(json.dumps({"load_s": load_s, **memory}))


def _measure(model: str, service: str, repeats: int, scratch: Path) -> dict[str, Any]:
    checkpoint, text_tower = scratch / f"{model}-{service}", ""
    part, whole = full_size.write(checkpoint, model, service)
    if service == "encoder" and full_size.MODELS[model].has_text_tower:
        text_tower = str(scratch / "clip")
        part += full_size.write_clip(Path(text_tower))
    runs = []
    for _ in range(repeats):
        runs.append(run_child("benchmarks.load", [service, str(checkpoint), text_tower], timeout_s=_TIMEOUT_S))
        print(f"{model} {service}: {runs[-1]['load_s']:.1f} s", file=sys.stderr)
    for file in checkpoint.glob("*.safetensors"):
        file.unlink()
    return {"model": model, "service": service, "part_bytes": part, "checkpoint_bytes": whole, "runs": runs}


def _markdown(result: dict[str, Any]) -> str:
    header = ("checkpoint", "service", "whole checkpoint, GiB", "its part, GiB", "peak, GiB", "empty, GiB")
    rows = []
    for row in result["rows"]:
        peak, empty, load_s = (
            statistics.median(run[key] for run in row["runs"]) for key in ("peak_bytes", "empty_bytes", "load_s")
        )
        sizes = (row["checkpoint_bytes"], row["part_bytes"], peak, empty)
        cells = [f"{size / _GIB:.2f}" for size in sizes]
        ratio = (peak - empty) / row["part_bytes"]
        rows.append([row["model"], row["service"], *cells, f"{ratio:.2f}", f"{load_s:.1f}"])
    return (
        f"# Loading a part of a checkpoint\n\n{origin(result, packages=['torch'])} Zeros in the hub's names and shapes,"
        " bfloat16; medians of the runs. *Peak* is the resident set of the whole process, *empty* that of Python and"
        " torch without a model.\n\n" + table((*header, "(peak - empty) / part", "seconds"), rows, num_labels=2)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.load", __doc__)
    parser.add_argument("--models", nargs="+", default=list(full_size.MODELS), choices=list(full_size.MODELS))
    parser.add_argument("--services", nargs="+", default=list(_SERVICES), choices=_SERVICES)
    parser.add_argument("--repeats", type=positive, default=3, help="loads of each part (default: %(default)s)")
    add_output(parser, repeats=1, models=["llava-1.5-7b"], services=["encoder"])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        _child(*args.child)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            _measure(model, service, args.repeats, Path(scratch)) for model in args.models for service in args.services
        ]
    result = {"provenance": provenance("benchmarks.load"), "rows": rows}
    publish(args.out, "load", result, _markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
