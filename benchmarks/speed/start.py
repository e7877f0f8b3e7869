"""`python -m benchmarks.speed.start`: time from the start of the encoder service until it is ready.

The service runs as a process of its own, on a full-size checkpoint of zeros. It is ready when its health check says
so. Zeros come from the page cache: a cold disk is slower. Writes `start_DEVICE.json` and `.md` into --out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.checkpoints import full_size
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.full_size_towers import add_towers, device_of
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack, StackError
from fovea.rpc.probe import healthy

__all__ = ["StackError", "main"]

_SERVICE: Final = "encoder_service"
_POLL_S: Final = 0.05


def _checkpoints(shapes: str, scratch: Path) -> tuple[Path, Path]:
    """Checkpoint of the model and of the text tower."""
    if shapes == "tiny":
        return shipped_checkpoint("llava"), shipped_checkpoint("clip")
    model, text_tower = scratch / "llava", scratch / "clip"
    full_size.write(model, "llava-1.5-7b", "encoder")
    full_size.write_clip(text_tower)
    return model, text_tower


def _start(args: argparse.Namespace, device: str, model: Path, text_tower: Path, log: Path) -> float:
    """Seconds until the service is ready.

    Raises:
        StackError: The service has ended by itself.
        TimeoutError: The service was not ready in time.
    """
    flags = ["--device", device, "--dtype", args.dtype]
    stack = Stack(str(model), str(text_tower), name="start", flags={_SERVICE: flags}, log_to=log)
    start = time.perf_counter()
    try:
        stack.start(_SERVICE)
        while not healthy(stack.encoder_address):
            stack.check()
            if time.perf_counter() - start > args.timeout_s:
                raise TimeoutError(f"the encoder service was not ready within {args.timeout_s:g} s")
            time.sleep(_POLL_S)
        return time.perf_counter() - start
    except Exception:
        print(log.read_text(errors="replace"), file=sys.stderr)
        raise
    finally:
        stack.stop()


def _markdown(result: dict[str, Any]) -> str:
    rows = [[_SERVICE, Spread(**result["ready_s"]).text(2)]]
    return (
        f"# From start to ready\n\n{origin(result, packages=['torch', 'transformers'])} Device: {result['device']};"
        f" shapes: {result['shapes']}; median of {len(result['runs'])} starts, with the lowest and the highest.\n\n"
    ) + table(["service", "seconds"], rows, num_labels=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.start", __doc__)
    add_towers(parser)
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--timeout-s", type=float, default=120.0)
    add_output(parser, shapes="tiny", repeats=1)
    args = parser.parse_args(argv)
    device = device_of(args).type
    with tempfile.TemporaryDirectory() as scratch:
        model, text_tower = _checkpoints(args.shapes, Path(scratch))
        runs = [_start(args, device, model, text_tower, Path(scratch) / "log") for _ in range(args.repeats)]
    result = {
        "provenance": provenance("benchmarks.speed.start"),
        "device": device,
        "shapes": args.shapes,
        "runs": runs,
        "ready_s": Spread.of(runs).summary(),
    }
    publish(args.out, f"start_{device}", result, _markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
