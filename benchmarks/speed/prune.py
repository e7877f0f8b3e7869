"""`python -m benchmarks.speed.prune`: time and peak memory of each pruner at 576, 2,880 and 16,384 tokens.

Features are random and have the shapes of ViT-L/14 at 336 pixels: one image, one question. At the smallest number of
tokens the pruners take turns with transformers' plain vision tower, whose time for one image theirs is a share of.
Pruners that work inside the tower are left out. Writes `prune_DEVICE.json` and `.md` into --out.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.speed.full_size_towers import add_towers, conditions, device_of, dtype_of, plain_tower
from benchmarks.speed.peak_memory import HOW_MEASURED, peak_bytes
from benchmarks.speed.prune_report import markdown
from benchmarks.speed.pruner_inputs import grid_of, prunable, random_input
from benchmarks.speed.timing import add_timing, interleaved, ratio, spreads
from encoder_service.pruners import PRUNERS

__all__ = ["main"]

_TOWER: Final = "plain tower"


def _side(pruner: str, tokens: int, args: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    dtype = dtype_of(args, device)
    inputs = random_input(pruner, grid_of(tokens), min(args.keep, tokens), device=device, dtype=dtype)
    return functools.partial(PRUNERS[pruner].bind({}).prune, inputs)


def _tower(args: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    tower = plain_tower(args, device)
    size = tower.config.image_size
    return functools.partial(tower, torch.randn(1, 3, size, size).to(device, tower.dtype))


@torch.inference_mode()
def _measure(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = []
    for tokens in sorted(args.tokens):
        sides = {name: _side(name, tokens, args, device) for name in args.pruners}
        peaks = {name: peak_bytes(run, device) for name, run in sides.items()}
        if not cells:
            sides[_TOWER] = _tower(args, device)
        times = interleaved(sides, device, args)
        shares = {name: ratio(times, name, _TOWER).summary(6) for name in args.pruners if _TOWER in times}
        cells.append({"tokens": tokens, "seconds": spreads(times), "shares": shares, "peak_bytes": peaks})
        print(f"{tokens} tokens", file=sys.stderr, flush=True)
    return cells


def _growth(cells: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """Exponents with which time and memory grow with the number of tokens, from the second-largest to the largest."""
    before, last = cells[-2], cells[-1]
    more = math.log(last["tokens"] / before["tokens"])
    seconds = last["seconds"][name]["median"] / before["seconds"][name]["median"]
    memory = max(1, last["peak_bytes"][name]) / max(1, before["peak_bytes"][name])
    return {"time": round(math.log(seconds) / more, 3), "memory": round(math.log(memory) / more, 3)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.prune", __doc__)
    add_towers(parser)
    parser.add_argument("--tokens", nargs="+", type=positive, default=[576, 2880, 16384])
    parser.add_argument("--keep", type=positive, default=64, help="visual tokens kept, whatever their number")
    parser.add_argument("--pruners", nargs="+", choices=prunable(), default=prunable(), metavar="NAME")
    add_timing(parser)
    add_output(parser, shapes="tiny", tokens=[16, 32, 64], keep=4, rounds=1)
    args = parser.parse_args(argv)
    if len(set(args.tokens)) < 2:
        parser.error("--tokens: two or more different numbers, for the growth")
    device = device_of(args)
    cells = _measure(args, device)
    result = {
        "provenance": provenance("benchmarks.speed.prune"),
        **conditions(args, device),
        "memory_measured_by": HOW_MEASURED[device.type],
        "cells": cells,
        "growth": {name: _growth(cells, name) for name in args.pruners},
    }
    publish(args.out, f"prune_{device.type}", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
