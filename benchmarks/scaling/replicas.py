"""`python -m benchmarks.replicas`: whether another replica of the stage that is short adds throughput, and only that.

Two encoder and two LLM services run as real processes, each held to a share of a core so that two cores hold them all
(`cpu_caps.py`). Real gateways use one or two of each; gateways and clients are not held back. A scenario is
sized so that one stage is the bottleneck. The shapes 1x1, 2x1, 1x2 and 2x2 (encoders x LLMs) take turns, in rounds.
After each scenario the same shapes answer requests that arrive at random below what they can do, for the latency.

Caches are off, pictures in flight are all different. `python -m benchmarks.capacity validate` compares with these runs
what the simulation makes of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.checkpoints import scaled
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.scaling.clients import Load, RequestShape, closed_loop, open_loop, pictures
from benchmarks.scaling.cpu_caps import choose
from benchmarks.scaling.deployment import FLAGS, ReplicaDeployment, Shape
from benchmarks.scaling.replicas_report import markdown

__all__ = ["SCENARIOS", "SHAPES", "Scenario", "main"]

SHAPES: Final = (Shape(1, 1), Shape(2, 1), Shape(1, 2), Shape(2, 2))


@dataclass(frozen=True)
class Scenario:
    """A load under which one stage is the bottleneck.

    Attributes:
        asked: The requests.
        clients: That ask at once.
        encoder_cores: Cap of each encoder service.
        llm_cores: Cap of each LLM service.
        arrivals_per_second: Of the runs below capacity, for each replica of the bottleneck.
        bottleneck: "encoder" or "llm".
    """

    asked: RequestShape
    clients: int
    encoder_cores: float
    llm_cores: float
    arrivals_per_second: float
    bottleneck: str

    def rate(self, shape: Shape) -> float:
        """Arrivals per second of the run below capacity."""
        return self.arrivals_per_second * (shape.encoders if self.bottleneck == "encoder" else shape.llms)


_CLIENTS: Final = 16
SCENARIOS: Final = {
    "encoder": Scenario(RequestShape(2, (1,)), _CLIENTS, 0.3, 0.4, 1.3, "encoder"),
    "llm": Scenario(RequestShape(1, (24, 32, 40, 48, 56)), _CLIENTS, 0.4, 0.3, 0.9, "llm"),
}

Run = Callable[[str], Coroutine[Any, Any, Load]]


def arrival_times(rate: float, duration_s: float, seed: int) -> list[float]:
    """Moments of a Poisson process."""
    rng = np.random.default_rng(seed)
    return list(np.cumsum(rng.exponential(1 / rate, size=max(round(rate * duration_s), 1))).tolist())


def _cell(deployment: ReplicaDeployment, shape: Shape, run: Run) -> dict[str, Any]:
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


def _measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    files = pictures(options.pictures)
    scenario = replace(SCENARIOS[name], clients=options.clients)
    shapes = [shape for shape in SHAPES if str(shape) in options.shapes]
    caps, proof = choose(scenario.encoder_cores)
    model, text_tower = scaled.write(folder)
    cores = {"encoder_cores": scenario.encoder_cores, "llm_cores": scenario.llm_cores}
    closed: list[dict[str, Any]] = []
    below: list[dict[str, Any]] = []
    with caps, ReplicaDeployment(model, text_tower, shapes, caps=caps, log=folder / "log", **cores) as deployment:
        for number in range(options.rounds):
            for shape in shapes:

                def ask_on(url: str) -> Coroutine[Any, Any, Load]:
                    return closed_loop(
                        url,
                        scenario.asked,
                        files,
                        clients=scenario.clients,
                        warm_up_s=options.warm_up_s,
                        window_s=options.window_s,
                    )

                closed.append({"round": number, **_cell(deployment, shape, ask_on)})
                print(name, json.dumps({**closed[-1], "seconds": len(closed[-1]["seconds"])}), flush=True)
        for shape in dict.fromkeys((shapes[0], shapes[-1])):  # 1x1 and 2x2
            moments = arrival_times(scenario.rate(shape), options.arrivals_s, seed=shape.encoders)

            def ask_at(url: str, moments: Sequence[float] = moments) -> Coroutine[Any, Any, Load]:
                return open_loop(url, scenario.asked, files, arrivals=moments)

            below.append({"rate": scenario.rate(shape), "arrivals": moments, **_cell(deployment, shape, ask_at)})
            print(name, shape, "below capacity, p50", round(float(np.median(below[-1]["seconds"])), 3), flush=True)
    return {
        "scenario": {"name": name, **asdict(scenario)},
        "flags": FLAGS,
        "caps": {"by": caps.name, "wanted": scenario.encoder_cores, "two_busy_threads_got": round(proof, 4)},
        "closed_loop": closed,
        "below_capacity": below,
    }


def main(argv: list[str] | None = None) -> int:
    """Measures the scenarios named; prints their reports, and writes them where --out says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description="Another replica, measured.")
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), help=f"of {', '.join(SCENARIOS)}; all")
    names = [str(shape) for shape in SHAPES]
    parser.add_argument(
        "--shapes", nargs="+", default=names, choices=names, help="encoders x LLM services (default: all)"
    )
    parser.add_argument("--clients", type=int, default=_CLIENTS, help="that ask at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window-s", type=float, default=15.0)
    parser.add_argument("--warm-up-s", type=float, default=5.0)
    parser.add_argument("--arrivals-s", type=float, default=25.0, help="length of the runs below capacity")
    parser.add_argument("--pictures", type=int, default=256, help="different ones, in turns")
    add_output(
        parser,
        rounds=1,
        window_s=2.0,
        warm_up_s=0.5,
        arrivals_s=2.0,
        pictures=16,
        shapes=["1x1"],
        clients=2,
    )
    options = parser.parse_args(argv)
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"there is no scenario {unknown.pop()!r}; accepted: {', '.join(SCENARIOS)}")
    facts = provenance("benchmarks.replicas")
    for name in options.scenarios:
        with tempfile.TemporaryDirectory() as folder:
            result = {"provenance": facts, **_measure(name, options, Path(folder))}
        publish(options.out, f"replicas_{name}", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
