"""`python -m benchmarks.speed.second_question`: another question about an image that was seen before.

The first question about an image runs vision tower, text tower and DeSAP. The second one, in the same round and with
other words, finds the features in the cache. Every round has new images. Writes `second_question_DEVICE.json` and
`.md` into --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.encoder_requests import LENGTHS, Subject, question
from benchmarks.speed.full_size_towers import add_towers, conditions, device_of, subject
from benchmarks.speed.timing import add_timing, goal, milliseconds, ratio, seconds, spreads

__all__ = ["main", "markdown"]

_CACHE_BYTES: Final = 4 * 2**30
_GOAL: Final = 0.25
_FIRST: Final = "first"
_SECOND: Final = "second"


def _round(encoder: Subject, batch: int, number: int, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of the two questions, with and without the decoding of the images."""
    engine, device = encoder.engine(_CACHE_BYTES), encoder.model.device
    first = encoder.requests(batch, "desap", keep=args.keep, seed=number)
    second = [
        dataclasses.replace(request, text_ids=question(encoder.model, i + len(LENGTHS) // 2))
        for i, request in enumerate(first)
    ]
    times: dict[str, float] = {}
    for name, requests in ((_FIRST, first), (_SECOND, second)):
        prepared: list[Any] = []
        decode_s = seconds(lambda: prepared.extend(map(engine.prepare, requests)), device, args.clock)  # noqa: B023
        outcomes: list[Any] = []
        times[name] = seconds(lambda: outcomes.extend(engine.run(prepared)), device, args.clock)  # noqa: B023
        times[f"{name}, decoding included"] = times[name] + decode_s
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            if any(media.features_cached != (name == _SECOND) for media in outcome):
                raise RuntimeError("the features were expected in the cache for the second question, and only then")
    return times


def _measure(args: argparse.Namespace, device: torch.device, scratch: Path) -> list[dict[str, Any]]:
    encoder = subject(args, device, scratch)
    cells = []
    for batch in args.batches:
        rounds = [_round(encoder, batch, number, args) for number in range(args.warmups + args.rounds)]
        times = {name: [one[name] for one in rounds[args.warmups :]] for name in rounds[0]}
        ratios = {
            suffix: ratio(times, _SECOND + suffix, _FIRST + suffix).summary(4) for suffix in ("", ", decoding included")
        }
        cells.append({"batch": batch, "seconds": spreads(times), "ratios": ratios})
        print(f"{batch}: {ratios['']}", file=sys.stderr, flush=True)
    return cells


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    rows = []
    for cell in result["cells"]:
        for suffix, over in cell["ratios"].items():
            times = [milliseconds(cell["seconds"][name + suffix], 1) for name in (_FIRST, _SECOND)]
            what = "engine" + suffix
            bound = None if suffix else _GOAL
            rows.append([str(cell["batch"]), what, *times, Spread(**over).text(3), goal(over["median"], bound)])
    header = ["images", "what", "first question, ms", "second question, ms", "second / first", "goal"]
    return (
        f"# A second question about an image\n\n{origin(result, packages=['torch', 'transformers'])} Device:"
        f" {result['device']}, {result['dtype']}, {result['threads']} threads; shapes: {result['shapes']}; random"
        f" weights; DeSAP, {result['keep']} tokens kept; clock: {result['clock']}.\n\nMedians of"
        f" {result['num_rounds']} rounds, with the lowest and the highest. A ratio is taken within a round.\n\n"
    ) + table(header, rows, num_labels=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.second_question", __doc__)
    add_towers(parser, compiles=True)
    parser.add_argument("--batches", nargs="+", type=positive, default=[1, 8], help="numbers of images")
    parser.add_argument("--keep", type=positive, default=64, help="visual tokens kept of an image")
    add_timing(parser)
    add_output(parser, shapes="tiny", batches=[1, 2], keep=4, rounds=2)
    args = parser.parse_args(argv)
    device = device_of(args)
    with tempfile.TemporaryDirectory() as scratch:
        cells = _measure(args, device, Path(scratch))
    result = {
        "provenance": provenance("benchmarks.speed.second_question"),
        **conditions(args, device),
        "cells": cells,
    }
    publish(args.out, f"second_question_{device.type}", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
