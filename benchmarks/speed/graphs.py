"""`python -m benchmarks.speed.graphs`: the encoder with and without CUDA graphs.

Both sides run the same requests on the same model. On a CPU a stand-in runs the functions again at each replay, which
shows only that both sides agree. Exit status 1 if a graph was left out, or if the sides keep different tokens. Writes
`graphs_DEVICE.json` and `.md` into --out.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.encoder_requests import Subject, encoded_media
from benchmarks.speed.full_size_towers import add_towers, conditions, device_of, subject
from benchmarks.speed.timing import add_timing, interleaved, milliseconds, ratio, spreads
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.graphs.encoder_graphs import GRAPHED_PRUNERS, EncoderGraphs
from encoder_service.engine.request_media import RequestMedia
from encoder_service.models.clip_encoder import ClipEncoder
from fovea.modeling.capture import Capture, CudaCapture, StandInCapture

__all__ = ["main", "markdown"]

_MAX_IMAGE_BYTES: Final = 2**24
_MAX_IMAGE_PIXELS: Final = 50_000_000
_EAGER: Final = "eager"
_GRAPHS: Final = "graphs"


def _with_towers(model: ClipEncoder, vision: Any, text: Any, run: Callable[[], object]) -> object:
    """`run` while the towers replay the given graphs."""
    model.vision_tower.graphs, model.text_tower.graphs = vision, text
    return run()


def _positions(engine: EncoderEngine, batch: Sequence[Sequence[RequestMedia]]) -> list[list[int]]:
    return [media.positions.tolist() for media in encoded_media(engine.run(batch))]


def _cell(encoder: Subject, graphs: EncoderGraphs, pruner: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    model = encoder.model
    assert isinstance(model, ClipEncoder)
    replays = model.vision_tower.graphs, model.text_tower.graphs
    eager = encoder.engine()
    replaying = EncoderEngine(
        model,
        FeatureCache(0),
        max_batch_size=encoder.max_batch_size,
        max_image_bytes=_MAX_IMAGE_BYTES,
        max_image_pixels=_MAX_IMAGE_PIXELS,
        run_pruner=graphs.prune,
    )
    prepared = [eager.prepare(request) for request in encoder.requests(batch, pruner, keep=args.keep)]
    sides = {
        _EAGER: functools.partial(_with_towers, model, {}, {}, functools.partial(_positions, eager, prepared)),
        _GRAPHS: functools.partial(_with_towers, model, *replays, functools.partial(_positions, replaying, prepared)),
    }
    is_equal = sides[_EAGER]() == sides[_GRAPHS]()
    times = interleaved(sides, model.device, args)
    model.vision_tower.graphs, model.text_tower.graphs = replays
    return {
        "pruner": pruner,
        "batch": batch,
        "is_equal": is_equal,
        "seconds": spreads(times),
        "ratio": ratio(times, _GRAPHS, _EAGER).summary(),
        "rounds": times,
    }


def _measure(args: argparse.Namespace, device: torch.device, scratch: Path) -> dict[str, Any]:
    encoder = subject(args, device, scratch)
    assert isinstance(encoder.model, ClipEncoder)
    capture: Capture = CudaCapture(device) if device.type == "cuda" else StandInCapture()
    graphs = EncoderGraphs(encoder.model, args.keep, encoder.max_batch_size)
    start = time.perf_counter()
    graphs.capture(capture)
    captured = {
        "seconds": round(time.perf_counter() - start, 2),
        "graphs": graphs.num_graphs,
        "left_out": list(graphs.left_out),
        "bytes": capture.nbytes,
    }
    cells = [_cell(encoder, graphs, pruner, batch, args) for batch in args.batches for pruner in GRAPHED_PRUNERS]
    return {"captured": captured, "cells": cells}


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    captured = result["captured"]
    rows = []
    for cell in result["cells"]:
        times = [milliseconds(cell["seconds"][side], 2) for side in (_EAGER, _GRAPHS)]
        rows.append(
            [
                cell["pruner"],
                str(cell["batch"]),
                *times,
                Spread(**cell["ratio"]).text(2),
                "yes" if cell["is_equal"] else "NO",
            ]
        )
    left_out = ", ".join(captured["left_out"]) or "none"
    return (
        f"# CUDA graphs of the encoder\n\n{origin(result, packages=['torch', 'transformers'])} Device:"
        f" {result['device']}, {result['dtype']}; shapes: {result['shapes']}; random weights; {result['keep']} tokens"
        f" kept.\n\n{captured['graphs']} graphs, captured in {captured['seconds']} s, take"
        f" {captured['bytes'] / 2**20:.0f} MiB. Left out: {left_out}.\n\nMedians of {result['num_rounds']} interleaved"
        " rounds, with the lowest and the highest.\n\n"
    ) + table(["pruner", "images", "eager, ms", "graphs, ms", "graphs / eager", "same tokens"], rows, num_labels=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out. Exit status 1 where a graph is not right."""
    parser = command_parser("benchmarks.speed.graphs", __doc__)
    add_towers(parser, compiles=True)
    parser.add_argument("--batches", nargs="+", type=positive, default=[1, 8, 32], help="numbers of images")
    parser.add_argument("--keep", type=positive, default=64, help="visual tokens kept of an image")
    add_timing(parser)
    add_output(parser, shapes="tiny", batches=[1, 2], keep=4, rounds=2)
    args = parser.parse_args(argv)
    device = device_of(args)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        measured = _measure(args, device, Path(scratch))
    result = {
        "provenance": provenance("benchmarks.speed.graphs"),
        **conditions(args, device),
        **measured,
    }
    publish(args.out, f"graphs_{device.type}", result, markdown(result))
    return int(bool(measured["captured"]["left_out"]) or not all(cell["is_equal"] for cell in measured["cells"]))


if __name__ == "__main__":
    sys.exit(main())
