"""`python -m benchmarks.replicas`: throughput with another replica of the bottleneck, and of the other stage.

Two encoder and two LLM services run as real processes, each held to a share of a core so that two cores suffice for all
(`cpu_caps.py`). Real gateways use one or two of each; gateways and clients have no cap. A scenario is sized so that one
stage is the bottleneck. The shapes 1x1, 2x1, 1x2 and 2x2 (encoders x LLMs) alternate, in rounds. After each scenario,
requests arrive at random below the capacity of a shape, for the latency.

Caches are off, and all images in flight are different. `python -m benchmarks.capacity validate` compares the simulation
with these runs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.checkpoints import scaled
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.scaling.clients import Load, RequestShape, closed_loop, jpeg_files, open_loop
from benchmarks.scaling.cpu_caps import choose
from benchmarks.scaling.deployment import FLAGS, ReplicaDeployment, Shape
from benchmarks.scaling.replicas_report import markdown

__all__ = ["SCENARIOS", "SHAPES", "Scenario", "main"]

SHAPES: Final = (Shape(1, 1), Shape(2, 1), Shape(1, 2), Shape(2, 2))


@dataclass(frozen=True)
class Scenario:
    """A load under which one stage is the bottleneck.

    Attributes:
        request: Size of the requests.
        clients: Number of clients in the closed loop.
        encoder_cores: Cap of each encoder service.
        llm_cores: Cap of each LLM service.
        arrivals_per_second: Rate of the runs below capacity, for each replica of the bottleneck.
        bottleneck: Stage that is the bottleneck, "encoder" or "llm".
    """

    request: RequestShape
    clients: int
    encoder_cores: float
    llm_cores: float
    arrivals_per_second: float
    bottleneck: str

    def rate(self, shape: Shape) -> float:
        """Arrivals a second of the run below capacity."""
        return self.arrivals_per_second * (shape.encoders if self.bottleneck == "encoder" else shape.llms)


_CLIENTS: Final = 16
SCENARIOS: Final = {
    "encoder": Scenario(RequestShape(2, (1,)), _CLIENTS, 0.3, 0.4, 1.3, "encoder"),
    "llm": Scenario(RequestShape(1, (24, 32, 40, 48, 56)), _CLIENTS, 0.4, 0.3, 0.9, "llm"),
}

LoadFunction = Callable[[str], Coroutine[Any, Any, Load]]


def arrival_times(rate: float, duration_s: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process, in seconds."""
    rng = np.random.default_rng(seed)
    return list(np.cumsum(rng.exponential(1 / rate, size=max(round(rate * duration_s), 1))).tolist())


def _cell(deployment: ReplicaDeployment, shape: Shape, run: LoadFunction) -> dict[str, Any]:
    before = deployment.cpu()
    load = asyncio.run(run(deployment.url(shape)))
    after = deployment.cpu()
    return {
        "shape": str(shape),
        "finished": load.finished,
        "window_s": round(load.window_s, 3),
        "per_second": round(load.per_second, 4),
        "seconds": [round(value, 4) for value in load.seconds],
        "cpu_s": {name: round(after[name] - before[name], 3) for name in after},
    }


def _closed_loops(
    deployment: ReplicaDeployment, scenario: Scenario, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Closed loops of all shapes, in rounds."""
    files = jpeg_files(options.images)

    def run(url: str) -> Coroutine[Any, Any, Load]:
        return closed_loop(
            url,
            scenario.request,
            files,
            clients=scenario.clients,
            warm_up_s=options.warm_up_s,
            window_s=options.window_s,
        )

    cells: list[dict[str, Any]] = []
    for number, shape in itertools.product(range(options.rounds), deployment.shapes):
        cells.append({"round": number, **_cell(deployment, shape, run)})
        print(json.dumps({**cells[-1], "seconds": len(cells[-1]["seconds"])}), flush=True)
    return cells


def _below_capacity(
    deployment: ReplicaDeployment, scenario: Scenario, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Random arrivals at the smallest and at the largest shape, 1x1 and 2x2."""
    files = jpeg_files(options.images)
    cells: list[dict[str, Any]] = []
    for shape in dict.fromkeys((deployment.shapes[0], deployment.shapes[-1])):
        arrivals = arrival_times(scenario.rate(shape), options.arrivals_s, seed=shape.encoders)

        def run(url: str, arrivals: Sequence[float] = arrivals) -> Coroutine[Any, Any, Load]:
            return open_loop(url, scenario.request, files, arrivals=arrivals)

        cells.append({"rate": scenario.rate(shape), "arrivals": arrivals, **_cell(deployment, shape, run)})
        print(shape, "below capacity, p50", round(float(np.median(cells[-1]["seconds"])), 3), flush=True)
    return cells


def _measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    scenario = replace(SCENARIOS[name], clients=options.clients)
    shapes = [shape for shape in SHAPES if str(shape) in options.shapes]
    caps, measured_cores = choose(scenario.encoder_cores)
    model, text_tower = scaled.write(folder)
    cores = {"encoder_cores": scenario.encoder_cores, "llm_cores": scenario.llm_cores}
    with caps, ReplicaDeployment(model, text_tower, shapes, caps=caps, log=folder / "log", **cores) as deployment:
        closed = _closed_loops(deployment, scenario, options)
        below = _below_capacity(deployment, scenario, options)
    return {
        "scenario": {"name": name, **asdict(scenario)},
        "flags": FLAGS,
        "caps": {"by": caps.name, "wanted": scenario.encoder_cores, "two_busy_threads_got": round(measured_cores, 4)},
        "closed_loop": closed,
        "below_capacity": below,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the scenarios named; prints their reports, and writes them into --out."""
    options = _arguments(argv)
    facts = provenance("benchmarks.replicas")
    for name in options.scenarios:
        with tempfile.TemporaryDirectory() as folder:
            result = {"provenance": facts, **_measure(name, options, Path(folder))}
        publish(options.out, f"replicas_{name}", result, markdown(result))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.replicas", __doc__)
    parser.add_argument(
        "scenarios", nargs="*", default=list(SCENARIOS), help=f"any of {', '.join(SCENARIOS)} (default: all)"
    )
    names = [str(shape) for shape in SHAPES]
    parser.add_argument(
        "--shapes", nargs="+", default=names, choices=names, help="encoders x LLM services (default: all)"
    )
    parser.add_argument(
        "--clients", type=positive, default=_CLIENTS, help="clients in the closed loop (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--window-s", type=float, default=15.0)
    parser.add_argument("--warm-up-s", type=float, default=5.0)
    parser.add_argument("--arrivals-s", type=float, default=25.0, help="length of the runs below capacity")
    parser.add_argument(
        "--pictures",
        dest="images",
        type=positive,
        default=256,
        help="number of different images (default: %(default)s)",
    )
    add_output(
        parser,
        rounds=1,
        window_s=4.0,
        warm_up_s=1.0,
        arrivals_s=2.0,
        images=16,
        shapes=["1x1"],
        clients=2,
    )
    options = parser.parse_args(argv)
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"there is no scenario {unknown.pop()!r}; accepted: {', '.join(SCENARIOS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
