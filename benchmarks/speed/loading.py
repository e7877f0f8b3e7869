"""`python -m benchmarks.load`: time and memory of each service loading its part of a full-size checkpoint.

The checkpoints are those of `checkpoints/full_size.py`: bfloat16, sharded, zeros. Shards that a service does not need
are missing. Each load runs in a process of its own, which then reads every parameter once, so that memory that is
mapped but not yet touched counts as well, and 32 questions where the encoder service reads them as embeddings. Zeros
come from the page cache: a cold disk is slower. With --before, the services of another checkout load in turns with
these.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.checkpoints import full_size
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.checkouts import code_of
from benchmarks.harness.children import run_file
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import table
from benchmarks.speed import loaded_part

__all__ = ["main"]

_SERVICES: Final = ("encoder", "llm")
_GIB: Final = 2**30
_TIMEOUT_S: Final = 1800


def _load(code: Path, service: str, checkpoint: Path, text_tower: str) -> dict[str, Any]:
    """Time and memory of one load with the services of the checkout `code`."""
    arguments = [service, str(checkpoint), text_tower]
    figures: dict[str, Any] = run_file(loaded_part.__file__, arguments, environment=code_of(code), timeout_s=_TIMEOUT_S)
    return figures


def _measure(model: str, service: str, code: Mapping[str, Path], repeats: int, scratch: Path) -> list[dict[str, Any]]:
    """Figures of one part of a checkpoint, by checkout."""
    checkpoint, text_tower = scratch / f"{model}-{service}", ""
    part, whole = full_size.write(checkpoint, model, service)
    if service == "encoder" and full_size.MODELS[model].has_text_tower:
        text_tower = str(scratch / "clip")
        part += full_size.write_clip(Path(text_tower))
    runs: dict[str, list[dict[str, Any]]] = {version: [] for version in code}
    for _ in range(repeats):
        for version, root in code.items():
            runs[version].append(_load(root, service, checkpoint, text_tower))
            print(f"{model} {service} {version}: {runs[version][-1]['load_s']:.1f} s", file=sys.stderr)
    for file in checkpoint.glob("*.safetensors"):
        file.unlink()
    sizes = {"part_bytes": part, "checkpoint_bytes": whole}
    return [{"model": model, "service": service, "code": version, **sizes, "runs": runs[version]} for version in code]


def _markdown(result: dict[str, Any]) -> str:
    header = ("checkpoint", "service", "code", "whole checkpoint, GiB", "its part, GiB")
    measured = ("tensors, GiB", "peak, GiB", "USS, GiB", "empty, GiB", "load, s", "question, ms")
    rows = []
    for row in result["rows"]:
        *sizes, load_s = (
            statistics.median(run[key] for run in row["runs"])
            for key in ("tensor_bytes", "peak_bytes", "uss_bytes", "empty_bytes", "load_s")
        )
        cells = [f"{size / _GIB:.2f}" for size in (row["checkpoint_bytes"], row["part_bytes"], *sizes)]
        questions = [1e3 * seconds for run in row["runs"] for seconds in run["question_s"]]
        cells += [f"{load_s:.1f}", f"{statistics.median(questions):.2f}" if questions else ""]
        rows.append([row["model"], row["service"], row["code"], *cells])
    return (
        f"# Loading a part of a checkpoint\n\n{origin(result, packages=['torch'])} Zeros in the hub's names and shapes,"
        " bfloat16; medians of the runs. *Its part* is what the service needs of the checkpoint, *tensors* what of it"
        " lies on the device. *Peak* is the resident set of the whole process, *USS* what its end would free, pages"
        " included that are mapped from the checkpoint, *empty* the resident set of Python with the service's modules"
        " and without a model. A *question* has 24 random words, which the encoder service of a family without a text"
        " tower reads as embeddings.\n\n" + table((*header, *measured), rows, num_labels=3)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.load", __doc__)
    parser.add_argument("--models", nargs="+", default=list(full_size.MODELS), choices=list(full_size.MODELS))
    parser.add_argument("--services", nargs="+", default=list(_SERVICES), choices=_SERVICES)
    parser.add_argument("--repeats", type=positive, default=3, help="loads of each part (default: %(default)s)")
    parser.add_argument("--before", type=Path, metavar="DIR", help="checkout of other services to compare with")
    parser.add_argument("--name", default="load", help="name of the result files (default: %(default)s)")
    add_output(parser, repeats=1, models=["llava-1.5-7b"], services=["encoder"])
    args = parser.parse_args(argv)
    code = {"after": Path.cwd()} if args.before is None else {"before": args.before, "after": Path.cwd()}
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            row
            for model in args.models
            for service in args.services
            for row in _measure(model, service, code, args.repeats, Path(scratch))
        ]
    result = {"provenance": provenance("benchmarks.load"), "rows": rows}
    publish(args.out, args.name, result, _markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
