"""`python -m benchmarks.speed.overload`: answers within their deadlines while more is offered than can be served.

The three services run as processes, with the shipped model. First the capacity is measured with clients in a closed
loop. Then `--factor` times as much is offered at random times that do not depend on the answers. A request that is
refused waits exactly as long as its Retry-After says, and tries once more. With --before, the services of another
checkout are measured as well, in turns. Writes `overload.json` and `.md` into --out.
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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.harness.arguments import command_parser, number, positive
from benchmarks.harness.checkouts import code_of
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import table
from benchmarks.scaling.clients import jpeg_files
from benchmarks.speed.load import closed_loop
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack, free_port

__all__ = ["main", "markdown"]

_TIMEOUT_S: Final = 300.0
_NUM_IMAGES: Final = 64
_FLAGS: Final = {
    "encoder_service": ["--feature-cache-bytes", "0", "--num-threads", "1"],
    # One sequence at a time, so that the services are the bottleneck and not the gateway or the clients.
    "llm_service": ["--num-threads", "1", "--max-batch-size", "1"],
    # Else the gateway, not the services, would refuse.
    "gateway": ["--answer-cache-bytes", "0", "--visual-token-cache-bytes", "0", "--max-concurrent-requests", "1000"],
}


def _requests(images: Sequence[bytes], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Requests with one image after the other, without end."""
    for index in itertools.count():
        form = {
            "question": f"Describe the image. Question {index}.",
            "cache": "bypass",
            "pruner": "none",
            "max_tokens": str(args.tokens),
            "timeout_s": f"{args.deadline_s:g}",
        }
        files = [("images", ("image.jpg", images[(index + i) % len(images)])) for i in range(args.images)]
        yield {"data": form, "files": files}


class _Clients:
    """Clients of one window.

    Args:
        http: Client of the gateway.
        deadline_s: Seconds in which an answer counts.
        load_s: Seconds in which first tries are made.

    Attributes:
        seconds: Seconds of each accepted request that was answered within its deadline.
        ended_at: Ends of these, as values of `time.perf_counter`.
        late: Number of accepted requests that were not, broken connections included.
        refused: Number of first tries that were refused.
        retries: Number of second tries, by whether the load still lasted.
        held: Number of these that were accepted.
        retry_after_s: Their Retry-After.
    """

    def __init__(self, http: httpx.AsyncClient, deadline_s: float, load_s: float) -> None:
        self._http = http
        self._load_ends_at = time.perf_counter() + load_s
        self._deadline_s = deadline_s
        self.seconds: list[float] = []
        self.ended_at: list[float] = []
        self.late = self.refused = 0
        self.retries: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.retry_after_s: list[float] = []

    async def send(self, request: Mapping[str, Any]) -> None:
        """Sends a request, and once more if it is refused.

        Raises:
            RuntimeError: The gateway answers with an error other than 408, 429 and 504.
        """
        retry_after_s = await self._try(request)
        if retry_after_s is None:
            return
        self.refused += 1
        self.retry_after_s.append(retry_after_s)
        await asyncio.sleep(retry_after_s)
        load = "under load" if time.perf_counter() < self._load_ends_at else "after it"
        is_held = await self._try(request) is None
        self.retries[load] += 1
        self.held[load] += is_held

    async def _try(self, request: Mapping[str, Any]) -> float | None:
        """Retry-After of a refusal; None for a request that was accepted."""
        started = time.perf_counter()
        try:
            response = await self._http.post("/v1/answer", **request)
        except httpx.TransportError:
            self.late += 1
            return None
        seconds = time.perf_counter() - started
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return float(response.headers["Retry-After"])
        if response.status_code not in (httpx.codes.OK, httpx.codes.REQUEST_TIMEOUT, httpx.codes.GATEWAY_TIMEOUT):
            raise RuntimeError(f"the gateway replied {response.status_code}: {response.text}")
        if response.status_code == httpx.codes.OK and seconds <= self._deadline_s:
            self.seconds.append(seconds)
            self.ended_at.append(started + seconds)
        else:
            self.late += 1
        return None


async def _open_loop(url: str, requests: Iterator[dict[str, Any]], rate: float, args: argparse.Namespace) -> Any:
    """Figures of a window with `rate` first tries a second. All requests, and their second tries, are waited for."""
    rng = np.random.default_rng(args.seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, int(rate * args.window_s)))
    # A gateway that closes idle connections after 5 s would reset some of them.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False, limits=limits) as http:
        clients = _Clients(http, args.deadline_s, args.window_s)
        start = time.perf_counter()

        async def send_at(arrival: float, request: Mapping[str, Any]) -> None:
            await asyncio.sleep(max(start + arrival - time.perf_counter(), 0))
            await clients.send(request)

        await asyncio.gather(*(send_at(arrival, request) for arrival, request in zip(arrivals, requests, strict=False)))
    in_window = sum(ended - start <= args.window_s for ended in clients.ended_at)
    return {
        "offered": len(arrivals),
        "answered": len(clients.seconds),
        "late": clients.late,
        "refused": clients.refused,
        "retries": clients.retries,
        "held": clients.held,
        "goodput_per_s": in_window / args.window_s,
        "p50_s": float(np.percentile(clients.seconds, 50)),
        "p99_s": float(np.percentile(clients.seconds, 99)),
        "retry_after_p50_s": statistics.median(clients.retry_after_s) if clients.retry_after_s else None,
    }


def _measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    requests = _requests(jpeg_files(_NUM_IMAGES), args)
    code = {"after": Path.cwd()} if args.before is None else {"before": args.before, "after": Path.cwd()}
    with ExitStack() as resources:
        stacks = {}
        for name, root in code.items():
            stacks[name] = resources.enter_context(
                Stack(
                    str(shipped_checkpoint("llava")),
                    str(shipped_checkpoint("clip")),
                    listen=f"127.0.0.1:{free_port()}",
                    name="overload",
                    flags=_FLAGS,
                    environment={"OMP_NUM_THREADS": "1", **code_of(root), **_off_hub()},
                    log_to=folder / f"{name}.log",
                )
            )
            stacks[name].wait_ready(_TIMEOUT_S)
        for stack in stacks.values():
            asyncio.run(closed_loop(stack.url, requests, args.in_flight, min(2.0, args.warm_up_s)))
        capacity = asyncio.run(closed_loop(stacks["after"].url, requests, args.in_flight, args.warm_up_s)).per_second
        print(json.dumps({"capacity_per_s": capacity}), file=sys.stderr, flush=True)
        cells = []
        for round_number in range(args.rounds):
            for name in stacks if round_number % 2 == 0 else reversed(stacks):
                cell = asyncio.run(_open_loop(stacks[name].url, requests, args.factor * capacity, args))
                cells.append({"round": round_number, "code": name, **cell})
                print(json.dumps(cells[-1]), file=sys.stderr, flush=True)
    return {"capacity_per_s": capacity, "cells": cells}


def _off_hub() -> dict[str, str]:
    return {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    rows = []
    for cell in result["cells"]:
        held = [f"{cell['held'].get(load, 0)} of {cell['retries'].get(load, 0)}" for load in ("under load", "after it")]
        retry = "-" if cell["retry_after_p50_s"] is None else f"{cell['retry_after_p50_s']:.0f}"
        rows.append(
            [
                f"{cell['round']}, {cell['code']}",
                *(f"{cell[name]:.1f}" for name in ("p50_s", "p99_s", "goodput_per_s")),
                *(str(cell[name]) for name in ("offered", "late", "refused")),
                retry,
                *held,
            ]
        )
    header = ["round, code", "p50, s", "p99, s", "answers in time/s", "offered", "accepted, too late", "refused"]
    header += ["Retry-After, median s", "accepted then, under load", "after the load"]
    load = (
        f"Capacity: {result['capacity_per_s']:.1f} answers/s. {result['factor']:g} times as much is offered for"
        f" {result['window_s']:g} s. Deadlines: {result['deadline_s']:g} s."
    )
    sizes = f"Questions have {result['images']} images, answers up to {result['tokens']} tokens."
    notes = "Quantiles are those of answers in time. The rate is that of answers that ended within the window."
    return f"# Overload\n\n{origin(result)}\n{load} {sizes}\n{notes}\n\n" + table(header, rows, num_labels=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.overload", __doc__)
    parser.add_argument("--before", type=Path, metavar="DIR", help="checkout of other services to compare with")
    parser.add_argument("--factor", type=number(0.1), default=3.0, help="offered load, in units of the capacity")
    parser.add_argument("--deadline-s", type=number(0.1), default=60.0, help="timeout_s of each request")
    parser.add_argument("--tokens", type=positive, default=96, help="most tokens of an answer")
    parser.add_argument("--images", type=positive, default=8, help="images of a question")
    parser.add_argument("--in-flight", type=positive, default=8, help="clients of the measurement of the capacity")
    parser.add_argument("--warm-up-s", type=number(0.1), default=10.0, help="time of that measurement")
    parser.add_argument("--window-s", type=number(0.1), default=30.0, help="time in which requests are sent")
    parser.add_argument("--rounds", type=positive, default=2)
    parser.add_argument("--seed", type=int, default=0)
    add_output(parser, factor=1.0, tokens=2, in_flight=2, warm_up_s=0.5, window_s=2.0, rounds=1)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        measured = _measure(args, Path(folder))
    settings = {
        name: getattr(args, name) for name in ("factor", "deadline_s", "images", "tokens", "window_s", "rounds", "seed")
    }
    result = {"provenance": provenance("benchmarks.speed.overload"), **settings, **measured}
    publish(args.out, "overload", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
