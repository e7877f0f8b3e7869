"""`python -m benchmarks.speed.load`: answers a second by the number of threads of each service.

Three arrangements of the three services on this machine alternate, in rounds:

* `chosen`: threads as the services choose them; idle threads sleep, as under `fovea up`;
* `one`: one thread for each model;
* `all`: the former default: all cores for each model; idle threads spin.

All questions are about one image, whose features the encoder finds in its cache, as in a chat. With --model wide, a
random model of 160 million parameters runs instead, and each question has an image of its own.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.checkpoints import scaled
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.pruning import PRUNING
from benchmarks.harness.tables import Spread, table
from benchmarks.scaling.clients import jpeg_files
from fovea.checkpoints.shipped import demo_folder, shipped_checkpoint
from fovea.processes.stack import Stack, free_port

__all__ = ["LoadRun", "closed_loop", "main"]

_TIMEOUT_S: Final = 300.0
_MAX_TOKENS: Final = 8
_NUM_IMAGES: Final = 64


@dataclass(frozen=True)
class Arrangement:
    """Threads of the services.

    Attributes:
        num_threads: Threads of each model; 0: the service chooses.
        environment: Variables of the services' environment.
    """

    num_threads: int
    environment: dict[str, str]


def arrangements() -> dict[str, Arrangement]:
    """The arrangements that are compared, by name."""
    # The number of spins of libgomp where OMP_WAIT_POLICY is not set.
    spinning = {"GOMP_SPINCOUNT": "300000", "OMP_WAIT_POLICY": "PASSIVE"}
    return {
        "chosen": Arrangement(0, {}),
        "one": Arrangement(1, {}),
        "all": Arrangement(len(os.sched_getaffinity(0)), spinning),
    }


@dataclass(frozen=True)
class LoadRun:
    """Answers a second in one window, and the median time of an answer in seconds."""

    per_second: float
    median_s: float


def _requests(images: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Requests with different questions, without end."""
    for number in itertools.count():
        yield {
            "data": {"question": f"Is there a red star? Question {number}.", "max_tokens": str(_MAX_TOKENS), **PRUNING},
            "files": {"image": ("image", images[number % len(images)])},
        }


async def closed_loop(
    url: str,
    requests: Iterator[dict[str, Any]],
    in_flight: int,
    window_s: float,
    check: Callable[[httpx.Response], object] = httpx.Response.raise_for_status,
) -> LoadRun:
    """A run of `in_flight` clients, each of which sends its next request after an answer.

    Args:
        url: Address of the gateway.
        requests: Arguments of `httpx.AsyncClient.post`, without end.
        in_flight: Number of clients.
        window_s: Seconds after which no more requests are sent. The run ends with the last answer.
        check: Function that raises an error for an answer that must not be counted.
    """
    seconds: list[float] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False, limits=limits) as client:
        start = time.perf_counter()

        async def send_requests() -> None:
            while time.perf_counter() - start < window_s:
                sent_at = time.perf_counter()
                response = await client.post("/v1/answer", **next(requests))
                check(response)
                seconds.append(time.perf_counter() - sent_at)

        await asyncio.gather(*(send_requests() for _ in range(in_flight)))
        return LoadRun(len(seconds) / (time.perf_counter() - start), statistics.median(seconds))


def _model(name: str, folder: Path) -> tuple[str, str, list[bytes]]:
    """Checkpoint, text tower and images."""
    if name == "wide":
        model, text_tower = scaled.write_wide(folder)
        return str(model), str(text_tower), jpeg_files(_NUM_IMAGES)
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
                        service: ["--num-threads", str(arrangement.num_threads)]
                        for service in ("encoder_service", "llm_service")
                    },
                    environment=arrangement.environment,
                    log_to=folder / "log",
                )
            )
            for name, arrangement in arrangements().items()
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
    """The report in Markdown."""
    measured = {cell["threads"] for cell in result["cells"]}
    names, rows = [name for name in arrangements() if name in measured], []
    for in_flight in sorted({cell["in_flight"] for cell in result["cells"]}):
        row = [str(in_flight)]
        for name in names:
            cells = [c for c in result["cells"] if (c["in_flight"], c["threads"]) == (in_flight, name)]
            rate, seconds = (statistics.median(c[key] for c in cells) for key in ("per_second", "median_s"))
            row.append(f"{rate:.1f} ({1000 * seconds:.0f} ms)")
        ratios = (Spread.of(_ratios(result["cells"], in_flight, names[0], base)) for base in names[1:])
        rows.append([*row, *(ratio.text() for ratio in ratios)])
    header = ["in flight", *(f"{name}: answers/s (p50)" for name in names)]
    header += [f"{names[0]} / {base}" for base in names[1:]]
    return (
        f"# Threads that share a machine\n\n{origin(result)} Medians of {result['rounds']} rounds; ratios of answers a"
        " second with the lowest and the highest of the rounds.\n\n"
    ) + table(header, rows, num_labels=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.load", __doc__)
    parser.add_argument("--model", choices=("shipped", "wide"), default="shipped")
    parser.add_argument("--threads", nargs="+", choices=list(arrangements()), default=list(arrangements()))
    parser.add_argument(
        "--in-flight", type=positive, nargs="+", default=[1, 8, 32], help="numbers of concurrent requests"
    )
    parser.add_argument("--rounds", type=positive, default=5)
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
