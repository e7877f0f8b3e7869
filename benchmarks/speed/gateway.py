"""`python -m benchmarks.speed.gateway`: what the gateway adds to an answer, and cached answers a second.

The three services run with the shipped model. Beside them runs an echo: a FastAPI application in uvicorn's default
configuration, which reads the same form and sends JSON of the same size (`benchmarks.speed.echo`). Requests take turns:

* an answer about a new image, less the calls to encoder and LLM service (`timing_ms`), less an echo of the same form;
* a cached answer and the echo, a window each, by the number of requests in flight.

The echo is fair if it has all that the gateway has. Both run on one Python with one set of packages, and uvicorn's
default (`auto`) takes uvloop and httptools where they are installed: an echo gets them as soon as the gateway does.
Between both, `least` does for a cached answer what no such answer goes without (`benchmarks.speed.least_answer`). It
tells how much of the distance is the work of an answer, and how much is the gateway's own.

CPU time of the server's process and function calls of its event loop are counted as well: they say the same on a busy
machine. With --before, the gateway of another checkout takes its turns, too. Writes `gateway.json` and `.md` into
--out.
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
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.harness.pruning import PRUNING
from benchmarks.scaling.clients import jpeg_files
from benchmarks.speed.gateway_report import markdown
from benchmarks.speed.gateway_servers import ECHO, LEAST, Server, running
from benchmarks.speed.light_client import Connection, form_request, requests_per_second
from fovea.checkpoints.shipped import demo_folder

__all__ = ["main"]

_FORM: Final = {"question": "Is there a red star?", "max_tokens": "4", **PRUNING}
_ECHO_BYTES: Final = 460
"""Size of an answer's JSON."""
_COUNTED: Final = 20
"""Requests whose function calls are counted."""
_WARM_UP: Final = 10
_PACKAGES: Final = ("fastapi", "starlette", "uvicorn", "h11", "python-multipart", "pydantic")


def _request(server: Server, image: bytes) -> bytes:
    return form_request(f"{server.url}/v1/answer", _FORM, image)


def _turns(servers: Sequence[Server], number: int) -> Sequence[Server]:
    """The servers in another order for each number."""
    first = number % len(servers)
    return [*servers[first:], *servers[:first]]


async def _new_answers(servers: Sequence[Server], images: Iterator[bytes], count: int) -> dict[str, Any]:
    """Medians of one round in milliseconds: answers less the calls to the services, and the echo; CPU time of each."""
    connections = {server.name: await Connection.open(server.url) for server in servers}
    seconds: dict[str, list[float]] = {server.name: [] for server in servers}
    cpu_s = {server.name: -server.cpu_s() for server in servers}
    for number in range(count):
        for server in _turns(servers, number):
            request = _request(server, next(images))
            sent_at = time.perf_counter()
            reply = json.loads(await connections[server.name].send(request))
            elapsed_s = time.perf_counter() - sent_at
            if server.name != ECHO:
                assert reply["cache"]["visual_tokens"] == "miss", "the image is not new"
                elapsed_s -= (reply["timing_ms"]["encode"] + reply["timing_ms"]["generate"]) / 1000
            seconds[server.name].append(elapsed_s)
    for connection in connections.values():
        connection.close()
    return {
        server.name: {
            "p50_ms": statistics.median(seconds[server.name]) * 1000,
            "cpu_ms": (cpu_s[server.name] + server.cpu_s()) / count * 1000,
        }
        for server in servers
    }


def _cached(server: Server, image: bytes, count: int, in_flight: int) -> dict[str, float]:
    """Rate of one window of requests that are all the same, and the CPU time of each."""
    cpu_s = -server.cpu_s()
    rate = asyncio.run(requests_per_second(server.url, [_request(server, image)] * count, in_flight))
    return {"per_second": rate, "cpu_ms": (cpu_s + server.cpu_s()) / count * 1000}


def _measure(args: argparse.Namespace, servers: Sequence[Server]) -> dict[str, Any]:
    demo = (demo_folder() / "demo.png").read_bytes()
    # Images of the same size as the cached one. No two requests have the same.
    answering = [server for server in servers if server.name != LEAST]
    images = iter(jpeg_files((args.rounds + 1) * args.answers * len(answering), seed=args.seed))
    asyncio.run(_new_answers(answering, images, args.answers))
    for server in servers:
        _cached(server, demo, _WARM_UP, 1)
    new, cached = [], []
    for number in range(args.rounds):
        new.append({"round": number, **asyncio.run(_new_answers(answering, images, args.answers))})
        for in_flight, server in itertools.product(args.in_flight, _turns(servers, number)):
            window = _cached(server, demo, args.cached, in_flight)
            cached.append({"round": number, "in_flight": in_flight, "server": server.name, **window})
        print(json.dumps({"new": new[-1], "load": os.getloadavg()[0]}), file=sys.stderr, flush=True)
    return {"new": new, "cached": cached}


def _count_calls(args: argparse.Namespace, servers: Sequence[Server]) -> dict[str, dict[str, float]]:
    """Function calls of the event loop for one request of each kind, by server."""
    demo = (demo_folder() / "demo.png").read_bytes()
    images = iter(jpeg_files(_COUNTED * len(servers), seed=args.seed + 1))
    calls: dict[str, dict[str, float]] = {}
    for server in servers:
        kinds = {"new": list(itertools.islice(images, _COUNTED)), "cached": [demo] * _COUNTED}
        if server.name == LEAST:
            del kinds["new"]
        calls[server.name] = {}
        for kind, files in kinds.items():
            requests = [_request(server, file) for file in files]
            server.begin_count()
            asyncio.run(requests_per_second(server.url, requests, 1))
            calls[server.name][kind] = server.num_calls() / _COUNTED
    return calls


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them into --out."""
    parser = command_parser("benchmarks.speed.gateway", __doc__)
    parser.add_argument("--before", type=Path, metavar="DIR", help="checkout of another gateway to compare with")
    parser.add_argument("--answers", type=positive, default=30, help="answers about new images in a round")
    parser.add_argument("--cached", type=positive, default=200, help="cached answers in a window")
    parser.add_argument(
        "--in-flight", type=positive, nargs="+", default=[1, 8, 32], help="numbers of concurrent requests"
    )
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--seed", type=int, default=0, help="seed of the images")
    add_output(parser, answers=2, cached=8, in_flight=[1, 2], rounds=1)
    args = parser.parse_args(argv)
    checkouts = {"after": Path(__file__).parents[2]} | ({} if args.before is None else {"before": args.before})
    load_before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(checkouts, Path(folder), echo_bytes=_ECHO_BYTES) as servers,
    ):
        measured = _measure(args, servers)
        calls = _count_calls(args, servers)  # last: it slows them
    result = {
        "provenance": provenance("benchmarks.speed.gateway", packages=_PACKAGES),
        **{name: getattr(args, name) for name in ("answers", "cached", "rounds", "seed")},
        "load_average": [load_before, os.getloadavg()[0]],
        **measured,
        "calls": calls,
    }
    publish(args.out, "gateway", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
