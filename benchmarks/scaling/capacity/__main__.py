"""`python -m benchmarks.capacity measure | validate | plan`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.scaling.capacity.planning import plan_for
from benchmarks.scaling.capacity.plots import plot_plans, plot_validation
from benchmarks.scaling.capacity.profile import Profile
from benchmarks.scaling.capacity.report import plan_report, profile_report, validation_report
from benchmarks.scaling.capacity.roofline import GPUS
from benchmarks.scaling.capacity.validation import TOLERANCE, compare

_RESULTS = Path(__file__).parents[2] / "results"


def _number(least: float, most: float = 1e9) -> Callable[[str], float]:
    """Of an argument; argparse names the bounds when it refuses one."""

    def read(text: str) -> float:
        value = float(text)
        if not least <= value <= most:  # also refuses NaN
            raise argparse.ArgumentTypeError(f"{text} is not {least:g} to {most:g}")
        return value

    return read


def _count(most: int = 10**6) -> Callable[[str], int]:
    """The same of a whole number from 1."""
    bounded = _number(1, most)
    return lambda text: int(bounded(str(int(text))))


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def _measure(options: argparse.Namespace) -> int:
    from benchmarks.scaling.capacity.measure import measure  # brings torch and the services along

    facts = provenance("benchmarks.capacity")
    with tempfile.TemporaryDirectory() as folder:
        profile = measure(Path(folder), repeats=options.repeats, rounds=options.rounds)
    result = {"provenance": facts, "profile": dataclasses.asdict(profile)}
    publish(options.out, "capacity_profile", result, profile_report(result))
    return 0


def _validate(options: argparse.Namespace) -> int:
    profile = Profile.read(options.profile)
    rows = [row for path in options.runs for row in compare(profile, json.loads(path.read_text(encoding="utf-8")))]
    result = {"provenance": provenance("benchmarks.capacity"), "rows": rows}
    plot = partial(plot_validation, rows, tolerance=TOLERANCE)
    publish(options.out, "capacity_validation", result, validation_report(result), plot)
    return 0 if all(row["within"] for row in rows) else 1


def _plan(options: argparse.Namespace) -> int:
    facts = provenance("benchmarks.capacity")
    for gpu in options.gpus:
        result = {"provenance": facts, **plan_for(GPUS[gpu], Profile.read(options.profile), options)}
        plot = partial(plot_plans, result["plans"], result["curves"], goal_s=options.goal_s)
        publish(options.out, f"capacity_{gpu}", result, plan_report(result, f"capacity_{gpu}.png"), plot)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 where `validate` finds a figure that is off by more than 15 %."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description="Capacity, by simulation.")
    parts = parser.add_subparsers(required=True)

    def part(name: str, run: Any, description: str) -> argparse.ArgumentParser:
        added = parts.add_parser(name, description=description, help=description)
        added.set_defaults(run=run)
        return added

    measuring = part("measure", _measure, "measure what every stage costs on this machine")
    measuring.add_argument("--repeats", type=_count(), default=9, help="of each batch")
    measuring.add_argument(
        "--rounds", type=_count(), default=15, help="of a request of each kind to the running services"
    )
    add_output(measuring, repeats=1, rounds=1)

    validating = part("validate", _validate, "compare the simulation with runs of benchmarks.replicas")
    validating.add_argument("--profile", type=_file, default=_RESULTS / "capacity_profile.json")
    runs = [_RESULTS / f"replicas_{name}.json" for name in ("encoder", "llm")]
    validating.add_argument("--runs", type=_file, nargs="+", default=runs, help="result files of benchmarks.replicas")
    add_output(validating)

    planning = part("plan", _plan, "replicas of each stage for LLaVA-1.5-7B at given rates and a latency goal")
    planning.add_argument(
        "--profile", type=_file, default=_RESULTS / "capacity_profile.json", help="for costs on the CPU"
    )
    planning.add_argument("--gpus", nargs="+", default=["a100-80gb", "l4"], choices=list(GPUS))
    planning.add_argument(
        "--rates", type=_number(0.5), nargs="+", default=[10, 100, 1000, 10_000], help="requests a second"
    )
    planning.add_argument("--keep", type=_count(575), default=64, help="visual tokens of 576, beside all of them")
    planning.add_argument("--goal-s", type=_number(0.001), default=4.0, help="p95 of a whole answer")
    planning.add_argument("--price-per-gpu-hour", type=_number(0), default=1.0, help="in any currency")
    planning.add_argument("--pictures", type=_count(8), default=1, help="of a question")
    planning.add_argument("--answer-tokens", type=_count(), nargs="+", default=[16, 32, 48, 64], help="in turns")
    planning.add_argument(
        "--answer-hits", type=_number(0, 0.99), default=0.0, help="share of answers found in the cache"
    )
    planning.add_argument("--visual-token-hits", type=_number(0, 1), default=0.0, help="and of visual tokens")
    planning.add_argument("--bursts", type=_number(1, 9.9), default=1.0, help="times the rate, in a tenth of the time")
    planning.add_argument(
        "--max-batch-size", type=_count(), default=32, help="rows of an LLM service, memory permitting"
    )
    planning.add_argument("--max-concurrent-requests", type=_count(), default=256, help="of a gateway")
    planning.add_argument(
        "--pod-cores", type=_number(0.1), default=8.0, help="CPU cores and decoding threads of an encoder"
    )
    planning.add_argument("--link-gbit-s", type=_number(0.001), default=10.0, help="of a gateway, to each stage")
    planning.add_argument(
        "--redis-calls", type=_number(0), default=100_000.0, help="a second; 0: caches in the gateways"
    )
    planning.add_argument("--redis-gbit-s", type=_number(0.001), default=25.0)
    planning.add_argument("--most-in-a-cell", type=_number(1), default=100.0, help="requests/s simulated together")
    planning.add_argument("--window-s", type=_number(0.1), default=15.0, help="simulated seconds of a trial")
    planning.add_argument("--seed", type=int, default=0)
    add_output(planning, gpus=["a100-80gb"], rates=[4.0], answer_tokens=[4], window_s=3.0)
    options = parser.parse_args(argv)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
