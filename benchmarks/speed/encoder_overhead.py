"""`python -m benchmarks.speed.encoder_overhead`: the encoder with DeSAP over transformers' plain tower.

One side is `EncoderEngine.run` on decoded images and questions, and the conversion to int8: vision tower, text tower,
DeSAP, merging, assembly. The other is transformers' whole vision tower with sdpa, from pixel values on the device to
its hidden states. Beside them the same tower is asked for its attention maps, as by code that prunes by them. On a GPU
the plain tower is also measured from and to host memory. The sides take turns. With
--model qwen3-vl-2b there are the first two sides. Writes `encoder_overhead_DEVICE.json` and `.md` into --out.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.encoder_requests import Subject, encoded_media
from benchmarks.speed.full_size_towers import (
    LLAVA,
    QWEN3_VL,
    add_towers,
    conditions,
    device_of,
    plain_arguments,
    plain_tower,
    subject,
)
from benchmarks.speed.peak_memory import HOW_MEASURED, peak_bytes
from benchmarks.speed.timing import add_timing, goal, interleaved, milliseconds, ratio, spreads
from encoder_service.engine.wire_values import is_float32
from fovea.v1 import tensor_pb2
from fovea.wire import tensors

__all__ = ["main", "markdown"]

FOVEA: Final = "fovea"
PLAIN: Final = "plain"
_SIDES: Final = {
    FOVEA: "Fovea: towers, DeSAP, merging, int8",
    PLAIN: "plain tower",
    "maps": "plain tower with attention maps, eager",
    "host": "plain tower, host memory to host memory",
}
_LAYERS: Final = {
    LLAVA: "The plain tower of transformers runs all its layers. Fovea runs one less, and of the last one what DeSAP"
    " reads.",
    QWEN3_VL: "Both run all layers and mergers. Fovea also computes what DeSAP reads, and sends planes.",
}
_GOALS: Final[dict[str, dict[int, float]]] = {
    "cpu": {1: 1.0, 8: 1.0, 32: 1.0},
    "cuda": {1: 0.4, 8: 1.05, 32: 1.05},
    "cuda, compiled": {1: 0.4, 8: 0.9, 32: 0.9},
}


def run_encoder(engine: Any, prepared: Sequence[Any]) -> int:
    """One batch through the engine and into int8; returns the number of bytes of the features."""
    num_bytes = 0
    for media in encoded_media(engine.run(prepared)):
        for values in filter(is_float32, media.vectors):
            num_bytes += tensors.to_message(values, tensor_pb2.DTYPE_INT8).ByteSize()
    return num_bytes


def _with_maps(tower: Any, pixel_values: torch.Tensor) -> object:
    tower.set_attn_implementation("eager")
    try:
        return tower(pixel_values, output_attentions=True, output_hidden_states=True)
    finally:
        tower.set_attn_implementation("sdpa")


def _through_host(tower: Any, pixel_values: torch.Tensor, device: torch.device) -> object:
    hidden = tower(pixel_values.to(device, tower.dtype), output_hidden_states=True).hidden_states[-2]
    return hidden[:, 1:].to(torch.float16).cpu()


def _sides(
    encoder: Subject, tower: Any, batch: int, args: argparse.Namespace, device: torch.device
) -> dict[str, Callable[[], object]]:
    engine = encoder.engine()
    prepared = [engine.prepare(request) for request in encoder.requests(batch, "desap", keep=args.keep)]
    inputs = [media.tower_inputs for item in prepared for media in item if media.tower_inputs is not None]
    pixel_values = encoder.model.pixel_values(inputs).to(tower.dtype)
    on_host = pixel_values.to("cpu", torch.float32)
    sides: dict[str, Callable[[], object]] = {
        PLAIN: functools.partial(tower, pixel_values, **plain_arguments(args, inputs)),
        FOVEA: functools.partial(run_encoder, engine, prepared),
    }
    if args.model != LLAVA:
        return sides
    if not args.no_maps:
        sides["maps"] = functools.partial(_with_maps, tower, pixel_values)
    if device.type == "cuda":
        sides["host"] = functools.partial(_through_host, tower, on_host, device)
    return sides


@torch.inference_mode()
def _measure(args: argparse.Namespace, device: torch.device, scratch: Path) -> list[dict[str, Any]]:
    encoder, tower = subject(args, device, scratch), plain_tower(args, device)
    cells = []
    for batch in args.batches:
        sides = _sides(encoder, tower, batch, args, device)
        peaks = {name: peak_bytes(run, device) for name, run in sides.items()}
        times = interleaved(sides, device, args)
        ratios = {name: ratio(times, name, PLAIN).summary() for name in times if name != PLAIN}
        cells.append(
            {"batch": batch, "seconds": spreads(times), "ratios": ratios, "rounds": times, "peak_bytes": peaks}
        )
        print(f"{batch}: {ratios[FOVEA]}", file=sys.stderr, flush=True)
    return cells


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    kind = result["device"] + (", compiled" if result["compile"] and result["device"] == "cuda" else "")
    rows = []
    for cell in result["cells"]:
        for name, label in _SIDES.items():
            if name not in cell["seconds"]:
                continue
            over = cell["ratios"].get(name)
            bound = _GOALS[kind].get(cell["batch"]) if name == FOVEA and result["model"] == LLAVA else None
            rows.append(
                [
                    str(cell["batch"]),
                    label,
                    milliseconds(cell["seconds"][name], 1),
                    f"{cell['peak_bytes'][name] / 2**20:,.0f}",
                    "" if over is None else Spread(**over).text(3),
                    "" if over is None else goal(over["median"], bound),
                ]
            )
    header = ["images", "side", "milliseconds", "peak, MiB", "over the plain tower", "goal"]
    return (
        f"# The encoder over a plain tower\n\n{origin(result, packages=['torch', 'transformers'])}"
        f" Device: {kind}, {result['dtype']}, {result['threads']} threads; model: {result['model']};"
        f" shapes: {result['shapes']}; random weights; {result['keep']} tokens kept; clock: {result['clock']}.\n\n"
        f"Medians of {result['num_rounds']} rounds in which the sides take turns, with the lowest and the highest. A"
        f" ratio is taken within a\nround. {_LAYERS[result['model']]}\nThe peak is that of memory beside weights and"
        f" inputs, measured by {result['memory_measured_by']}.\n\n"
    ) + table(header, rows, num_labels=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.encoder_overhead", __doc__)
    add_towers(parser, compiles=True, has_models=True)
    parser.add_argument("--batches", nargs="+", type=positive, help="numbers of images (1 8; on a GPU also 32)")
    parser.add_argument("--keep", type=positive, default=64, help="visual tokens kept of an image")
    add_timing(parser)
    parser.add_argument("--no-maps", action="store_true", help="leave out the tower with attention maps")
    add_output(parser, shapes="tiny", batches=[1, 2], keep=4, rounds=2)
    args = parser.parse_args(argv)
    device = device_of(args)
    args.batches = args.batches or ([1, 8, 32] if device.type == "cuda" else [1, 8])
    with tempfile.TemporaryDirectory() as scratch:
        cells = _measure(args, device, Path(scratch))
    result = {
        "provenance": provenance("benchmarks.speed.encoder_overhead"),
        "memory_measured_by": HOW_MEASURED[device.type],
        **conditions(args, device),
        "cells": cells,
    }
    suffix = "" if args.model == LLAVA else f"_{args.model}"
    publish(args.out, f"encoder_overhead{suffix}_{device.type}", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
