"""`python -m benchmarks.speed.load`: new questions about one image a second, as the services choose their threads.

Three arrangements of the same three services on this machine take turns, in rounds:

* `chosen`: threads as the services choose them, and threads that wait asleep, as `fovea up` arranges it;
* `one`: one thread for each model;
* `all`: what was the default before: all cores for each model, and threads that wait spinning.

The questions differ, the image does not: the encoder finds its features in its cache, as in a chat about one image.
With --model wide, a random model of 160 million parameters runs instead, and each question brings an image of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.checkpoints import scaled
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.harness.report import table
from benchmarks.scaling.clients import pictures
from fovea.checkpoints.shipped import demo_folder, shipped_checkpoint
from fovea.processes.stack import Stack, free_port

__all__ = ["main"]

_TIMEOUT_S: Final = 300.0
_MAX_TOKENS: Final = 8
_NUM_IMAGES: Final = 64


@dataclass(frozen=True)
class Arrangement:
    """Threads of the services: `num_threads` of each model (0: as they choose), and variables of their environment."""

    num_threads: int
    environment: dict[str, str]


def arrangements() -> dict[str, Arrangement]:
    """What takes turns, by name."""
    # libgomp's own count of spins where OMP_WAIT_POLICY is not set.
    spinning = {"GOMP_SPINCOUNT": "300000", "OMP_WAIT_POLICY": "PASSIVE"}
    return {
        "chosen": Arrangement(0, {}),
        "one": Arrangement(1, {}),
        "all": Arrangement(len(os.sched_getaffinity(0)), spinning),
    }


@dataclass(frozen=True)
class Run:
    """Answers a second in one window, and the median time of one, in seconds."""

    per_second: float
    median_s: float


def _requests(images: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Requests of which no two ask the same."""
    for number in itertools.count():
        yield {
            "data": {"question": f"Is there a red star? Question {number}.", "max_tokens": str(_MAX_TOKENS)},
            "files": {"image": ("image", images[number % len(images)])},
        }


async def closed_loop(url: str, requests: Iterator[dict[str, Any]], in_flight: int, window_s: float) -> Run:
    """`in_flight` clients, each of which asks again once it has its answer, for `window_s` seconds."""
    seconds: list[float] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False, limits=limits) as client:
        start = time.perf_counter()

        async def ask_on() -> None:
            while time.perf_counter() - start < window_s:
                asked = time.perf_counter()
                response = await client.post("/v1/answer", **next(requests))
                response.raise_for_status()
                seconds.append(time.perf_counter() - asked)

        await asyncio.gather(*(ask_on() for _ in range(in_flight)))
        return Run(len(seconds) / (time.perf_counter() - start), statistics.median(seconds))


def _model(name: str, folder: Path) -> tuple[str, str, list[bytes]]:
    """Checkpoint, text tower and images."""
    if name == "wide":
        model, text_tower = scaled.write_wide(folder)
        return str(model), str(text_tower), pictures(_NUM_IMAGES)
    image = demo_folder() / "demo.png"
    return str(shipped_checkpoint("llava")), str(shipped_checkpoint("clip")), [image.read_bytes()]


def _measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    model, text_tower, images = _model(args.model, folder)
    requests = _requests(images)
    cells = []
    with ExitStack() as resources:
        stacks = {
            name: resources.enter_context(
                Stack(
                    model,
                    text_tower,
                    listen=f"127.0.0.1:{free_port()}",
                    name="load",
                    flags={
                        service: ["--num-threads", str(one.num_threads)]
                        for service in ("encoder_service", "llm_service")
                    },
                    environment=one.environment,
                    log_to=folder / "log",
                )
            )
            for name, one in arrangements().items()
            if name in args.threads
        }
        for stack in stacks.values():
            stack.wait_ready(_TIMEOUT_S)
            asyncio.run(closed_loop(stack.url, requests, 2, min(2.0, args.window_s)))
        for number, in_flight in itertools.product(range(args.rounds), args.in_flight):
            order = list(stacks) if number % 2 == 0 else list(reversed(stacks))
            for name in order:
                run = asyncio.run(closed_loop(stacks[name].url, requests, in_flight, args.window_s))
                cells.append({"round": number, "in_flight": in_flight, "threads": name, **vars(run)})
                print(json.dumps(cells[-1]), file=sys.stderr, flush=True)
    return cells


def _ratios(cells: Sequence[dict[str, Any]], in_flight: int, name: str, base: str) -> list[float]:
    """Answers a second of one arrangement over those of another, in each round."""
    rounds = {(c["round"], c["threads"]): c["per_second"] for c in cells if c["in_flight"] == in_flight}
    return [rounds[number, name] / rounds[number, base] for number, other in rounds if other == name]


def markdown(result: dict[str, Any]) -> str:
    """The table of a results file."""
    measured = {cell["threads"] for cell in result["cells"]}
    names, rows = [name for name in arrangements() if name in measured], []
    for in_flight in sorted({cell["in_flight"] for cell in result["cells"]}):
        row = [str(in_flight)]
        for name in names:
            some = [c for c in result["cells"] if (c["in_flight"], c["threads"]) == (in_flight, name)]
            rate, seconds = (statistics.median(c[key] for c in some) for key in ("per_second", "median_s"))
            row.append(f"{rate:.1f} ({1000 * seconds:.0f} ms)")
        for base in names[1:]:
            ratios = _ratios(result["cells"], in_flight, names[0], base)
            row.append(f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
        rows.append(row)
    head = ["in flight", *(f"{name}: answers/s (p50)" for name in names)]
    head += [f"{names[0]} / {base}" for base in names[1:]]
    facts = result["provenance"]
    return (
        f"# Threads that share a machine\n\n`{facts['command']}`, commit {facts['commit']}, {facts['date']}, "
        f"{facts['machine']['processor']}, {facts['machine']['cores']} cores. Medians of {result['rounds']} rounds;"
        " ratios of answers a second with the smallest and the largest of the rounds.\n\n"
    ) + table(head, rows, num_labels=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.load", description="Threads that share a machine."
    )
    parser.add_argument("--model", choices=("shipped", "wide"), default="shipped")
    parser.add_argument("--threads", nargs="+", choices=list(arrangements()), default=list(arrangements()))
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32], help="requests at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window-s", type=float, default=6.0)
    add_output(parser, threads=["chosen"], in_flight=[2], rounds=1, window_s=0.5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        cells = _measure(args, Path(folder))
    result = {"provenance": provenance("benchmarks.speed.load"), "rounds": args.rounds, "cells": cells}
    name = "threads" if args.model == "shipped" else f"threads_{args.model}"
    publish(args.out, name, result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
