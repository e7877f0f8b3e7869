"""`python -m benchmarks.load`: time and peak memory in which each service loads its part of a full-size checkpoint.

The checkpoints are those of `checkpoints/full_size.py`: bfloat16, sharded, zeros; of the shards that a service does not
need none exists. Each load runs in a process of its own, which afterwards reads every parameter once, so that memory
which is mapped and not yet touched counts as well. Zeros come from the page cache: a cold disk is slower.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from benchmarks.checkpoints import full_size
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance

__all__ = ["main"]

_SERVICES: Final = ("encoder", "llm")
_GIB: Final = 2**30
_TIMEOUT_S: Final = 1800


def _tensors(service: str, checkpoint: str, text_tower: str) -> list[torch.Tensor]:
    """All that a service's model holds."""
    if service == "encoder":
        from encoder_service import models
        from encoder_service.models.base import LoadOptions

        loaded: Any = models.load(checkpoint, LoadOptions(text_tower=text_tower, device="cpu", dtype="bfloat16"))
    else:
        from llm_service.models import load_model

        loaded = load_model(Path(checkpoint), device=torch.device("cpu"), dtype="bfloat16", attn_implementation="sdpa")
    held = vars(loaded).values()
    parameters = [p for value in held if isinstance(value, nn.Module) for p in value.parameters()]
    return list({id(t): t for t in (*parameters, *(v for v in held if isinstance(v, torch.Tensor)))}.values())


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _child(service: str, checkpoint: str, text_tower: str) -> None:
    """Loads, touches and prints what it took."""
    empty = _peak_bytes()
    start = time.perf_counter()
    tensors = _tensors(service, checkpoint, text_tower)
    load_s = time.perf_counter() - start
    with torch.inference_mode():
        for tensor in tensors:
            tensor.view(-1).view(torch.int16).max()
    taken = {"tensor_bytes": sum(t.nbytes for t in tensors), "empty_bytes": empty, "peak_bytes": _peak_bytes()}
    print(json.dumps({"load_s": load_s, **taken}))


def _measure(model: str, service: str, repeats: int, scratch: Path) -> dict[str, Any]:
    checkpoint, text_tower = scratch / f"{model}-{service}", ""
    part, whole = full_size.write(checkpoint, model, service)
    if service == "encoder" and full_size.MODELS[model].has_text_tower:
        text_tower = str(scratch / "clip")
        part += full_size.write_clip(Path(text_tower))
    command = [sys.executable, "-m", "benchmarks.load", "--child", service, str(checkpoint), text_tower]
    runs = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{model}, {service}: {done.stderr[-2000:]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{model} {service}: {runs[-1]['load_s']:.1f} s", file=sys.stderr)
    for file in checkpoint.glob("*.safetensors"):
        file.unlink()
    return {"model": model, "service": service, "part_bytes": part, "checkpoint_bytes": whole, "runs": runs}


def _markdown(result: dict[str, Any]) -> str:
    lines = [
        "# Loading a part of a checkpoint",
        "",
        "Zeros in the hub's names and shapes, bfloat16 on a CPU; medians of the runs. *Peak* is the resident set of the"
        " whole process, *empty* what Python and torch take by themselves. `python -m benchmarks.load`.",
        "",
        "| checkpoint | service | whole checkpoint, GiB | its part, GiB | peak, GiB | empty, GiB"
        " | (peak - empty) / part | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        peak, empty, load_s = (
            statistics.median(run[key] for run in row["runs"]) for key in ("peak_bytes", "empty_bytes", "load_s")
        )
        sizes = (row["checkpoint_bytes"], row["part_bytes"], peak, empty)
        cells = [f"{size / _GIB:.2f}" for size in sizes]
        ratio = (peak - empty) / row["part_bytes"]
        lines.append(f"| {row['model']} | {row['service']} | {' | '.join(cells)} | {ratio:.2f} | {load_s:.1f} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it where --out says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(full_size.MODELS), choices=list(full_size.MODELS))
    parser.add_argument("--services", nargs="+", default=list(_SERVICES), choices=_SERVICES)
    parser.add_argument("--repeats", type=int, default=3, help="loads of each part (default: %(default)s)")
    add_output(parser, repeats=1, models=["llava-1.5-7b"], services=["encoder"])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        _child(*args.child)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        rows = [_measure(m, s, args.repeats, Path(scratch)) for m in args.models for s in args.services]
    result = {"provenance": provenance("benchmarks.load"), "rows": rows}
    publish(args.out, "load", result, _markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
