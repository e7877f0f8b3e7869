"""`python -m benchmarks.speed.concurrency`: requests a second, pruned and unpruned, by the number in flight.

The three services run as processes, both models on one device. Each of N clients sends its next request after an
answer until the window is over, and a rate counts the time to the last answer. Windows with and without pruning take
turns, and the first of a round is another each time. No feature, visual token or answer comes from a cache. An answer
that failed, or that is shorter than asked for, ends the run with an error. Exit status 1 if the median of pruned over
unpruned is below 1 at any number in flight. Writes `concurrency_DEVICE.json` and `.md` into --out.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import httpx
import torch

from benchmarks.checkpoints.random_llava import Checkpoint
from benchmarks.harness.arguments import command_parser, count, number, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from benchmarks.scaling.clients import jpeg_files
from benchmarks.speed.full_size_towers import device_of
from benchmarks.speed.load import LoadRun, closed_loop
from benchmarks.speed.services import TIMEOUT_S, add_services, model_facts, provided, running, size_of, size_text
from benchmarks.speed.timing import goal_of_speedup

__all__ = ["main", "markdown"]

PRUNED: Final = "desap"
UNPRUNED: Final = "none"
_GOAL_IN_FLIGHT: Final = 32
_GOAL_GAIN: Final = 1.9
_GOAL_PER_SECOND: Final = 60
_FLAGS: Final = {
    "encoder_service": ["--feature-cache-bytes", "0"],
    "gateway": ["--answer-cache-bytes", "0", "--visual-token-cache-bytes", "0"],
}


def _requests(pruner: str, files: Sequence[bytes], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Requests with one image after the other, without end."""
    form = {
        "question": "what colour is it?",
        "pruner": pruner,
        "cache": "bypass",
        "max_tokens": str(args.tokens),
        "timeout_s": str(TIMEOUT_S),
    }
    if pruner == PRUNED:
        form["keep_tokens"] = str(args.keep)
    return ({"data": form, "files": {"image": ("image.jpg", file)}} for file in itertools.cycle(files))


class _Check:
    """Check of all answers of a run.

    Args:
        num_tokens: Length of an answer.

    Attributes:
        visual_tokens: Visual tokens of the last request in the language model.
    """

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self.visual_tokens = 0

    def __call__(self, response: httpx.Response) -> None:
        """Raises RuntimeError for an answer that failed, or that is shorter than asked for."""
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"the gateway replied {response.status_code}: {response.text}")
        usage = response.json()["usage"]
        if usage["completion_tokens"] != self._num_tokens:
            raise RuntimeError(f"an answer ended early: {response.text}")
        self.visual_tokens = usage["visual_tokens_kept"]


def _measure(args: argparse.Namespace, checkpoint: Checkpoint, device: torch.device) -> dict[str, Any]:
    most = max(args.in_flight)
    files = jpeg_files(2 * most)  # twice as many as are in flight, so that no two concurrent requests have the same
    requests = {side: _requests(side, files, args) for side in (PRUNED, UNPRUNED)}
    checks = {side: _Check(args.tokens) for side in requests}
    cells = []
    with running(
        checkpoint, args, device, max_batch_size=args.max_batch_size, max_in_flight=most, flags=_FLAGS
    ) as stack:

        def window(side: str, in_flight: int, seconds: float) -> LoadRun:
            return asyncio.run(closed_loop(stack.url, requests[side], in_flight, seconds, checks[side]))

        for in_flight, side in itertools.product(args.in_flight, requests):
            window(side, in_flight, args.warm_up_s)
        for round_number, in_flight in itertools.product(range(args.rounds), args.in_flight):
            for side in requests if round_number % 2 == 0 else reversed(requests):
                run = window(side, in_flight, args.window_s)
                cells.append({"round": round_number, "in_flight": in_flight, "pruner": side, **vars(run)})
                print(json.dumps(cells[-1]), file=sys.stderr, flush=True)
    return {"visual_tokens": {side: check.visual_tokens for side, check in checks.items()}, "cells": cells}


def _summary(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each number in flight the spreads over the rounds, and the gain, which is taken within a round."""
    rows = []
    for in_flight in dict.fromkeys(cell["in_flight"] for cell in cells):
        sides = {
            side: [cell for cell in cells if (cell["in_flight"], cell["pruner"]) == (in_flight, side)]
            for side in (PRUNED, UNPRUNED)
        }
        rates = {side: [cell["per_second"] for cell in found] for side, found in sides.items()}
        gains = [pruned / unpruned for pruned, unpruned in zip(rates[PRUNED], rates[UNPRUNED], strict=True)]
        rows.append(
            {
                "in_flight": in_flight,
                "gain": Spread.of(gains).summary(),
                "per_second": {side: Spread.of(values).summary() for side, values in rates.items()},
                "p50_s": {side: statistics.median(cell["median_s"] for cell in sides[side]) for side in sides},
            }
        )
    return rows


def _goal(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Table cell of the goals of LLaVA-1.5-7B on a GPU. Only on an H200 there is one for the rate."""
    if (result["device"], result["size"], result["tokens"], row["in_flight"]) != ("cuda", "7b", 16, _GOAL_IN_FLIGHT):
        return goal_of_speedup(row["gain"]["median"], 1)
    text = goal_of_speedup(row["gain"]["median"], _GOAL_GAIN)
    if "H200" not in str(result["provenance"]["machine"]["accelerator"]):
        return text
    is_met = row["per_second"][PRUNED]["median"] >= _GOAL_PER_SECOND
    return f"{text}; >= {_GOAL_PER_SECOND}/s, {'met' if is_met else 'missed'}"


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    rows = []
    for row in result["summary"]:
        cells = [
            text
            for side in (PRUNED, UNPRUNED)
            for text in (Spread(**row["per_second"][side]).text(), f"{1e3 * row['p50_s'][side]:,.0f}")
        ]
        rows.append([str(row["in_flight"]), *cells, Spread(**row["gain"]).text(), _goal(result, row)])
    header = ["in flight"]
    for side in (PRUNED, UNPRUNED):
        header += [f"{side}, {result['visual_tokens'][side]} tokens: requests/s", "p50, ms"]
    return (
        f"# Concurrent requests\n\n{origin(result, packages=['torch', 'transformers'])} {size_text(result)} New tokens:"
        f" {result['tokens']}; --max-batch-size {result['max_batch_size']}.\n\nMedians of {result['num_rounds']}"
        " rounds, with the lowest and the highest. Requests are sent for"
        f" {result['window_s']:g} s, and all are answered. The gain is\ntaken within a round.\n\n"
    ) + table([*header, "pruned / unpruned", "goal"], rows, num_labels=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out. Exit status 1 where pruning lowers the rate."""
    parser = command_parser("benchmarks.speed.concurrency", __doc__)
    add_services(parser, cpu_size="small")
    parser.add_argument(
        "--in-flight", type=count(256), nargs="+", default=[1, 8, 32, 64], help="numbers of concurrent requests"
    )
    parser.add_argument("--tokens", type=count(256), default=16, help="tokens of an answer")
    parser.add_argument("--max-batch-size", type=count(256), default=32, help="the LLM service's: running sequences")
    parser.add_argument("--keep", type=positive, default=64, help="visual tokens that desap keeps of an image")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--window-s", type=number(0.1), default=8.0, help="time in which requests are sent")
    parser.add_argument("--warm-up-s", type=number(0.1), default=2.0, help="the same before the first round")
    parser.set_defaults(may_be_slower=False)
    add_output(
        parser,
        size="tiny",
        in_flight=[1, 2],
        tokens=2,
        keep=2,
        rounds=1,
        window_s=0.5,
        warm_up_s=0.1,
        may_be_slower=True,
    )
    args = parser.parse_args(argv)
    device = device_of(args)
    size = size_of(args, device)
    with provided(args, size) as checkpoint:
        measured = _measure(args, checkpoint, device)
    result = {
        "provenance": provenance("benchmarks.speed.concurrency"),
        **model_facts(args, size, device),
        "tokens": args.tokens,
        "max_batch_size": args.max_batch_size,
        "num_rounds": args.rounds,
        "window_s": args.window_s,
        **measured,
    }
    result["summary"] = _summary(measured["cells"])
    publish(args.out, f"concurrency_{device.type}", result, markdown(result))
    is_slower = any(row["gain"]["median"] < 1 for row in result["summary"])
    return int(is_slower and not args.may_be_slower)


if __name__ == "__main__":
    sys.exit(main())
