"""`python -m benchmarks.capacity measure | validate | plan`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.harness.arguments import add_seed, command_parser, count, existing_file, number
from benchmarks.harness.output import add_output, publish, read_result
from benchmarks.harness.provenance import provenance
from benchmarks.scaling.capacity.planning import plan_for
from benchmarks.scaling.capacity.plots import plot_plans, plot_validation
from benchmarks.scaling.capacity.profile import Profile
from benchmarks.scaling.capacity.report import plan_report, profile_report, validation_report
from benchmarks.scaling.capacity.roofline import GPUS
from benchmarks.scaling.capacity.validation import TOLERANCE, compare

_RESULTS: Final = Path(__file__).parents[2] / "results"
_PROFILE: Final = _RESULTS / "capacity_profile.json"


def _measure(options: argparse.Namespace) -> int:
    from benchmarks.scaling.capacity.measure import measure  # imports torch and the services

    facts = provenance("benchmarks.capacity")
    with tempfile.TemporaryDirectory() as folder:
        profile = measure(Path(folder), repeats=options.repeats, rounds=options.rounds)
    result = {"provenance": facts, "profile": dataclasses.asdict(profile)}
    publish(options.out, "capacity_profile", result, profile_report(result))
    return 0


def _validate(options: argparse.Namespace) -> int:
    profile = Profile.read(options.profile)
    rows = [row for path in options.runs for row in compare(profile, read_result(path))]
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


def _add_measure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=count(), default=9, help="measurements of each batch")
    parser.add_argument(
        "--rounds", type=count(), default=15, help="measurements of each kind of request to the running services"
    )
    add_output(parser, repeats=1, rounds=1)


def _add_validate(parser: argparse.ArgumentParser) -> None:
    runs = [_RESULTS / f"replicas_{name}.json" for name in ("encoder", "llm")]
    parser.add_argument("--profile", type=existing_file, default=_PROFILE, help="profile of this machine")
    parser.add_argument("--runs", type=existing_file, nargs="+", default=runs, help="results of benchmarks.replicas")
    add_output(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _add_workload(parser)
    _add_deployment(parser)
    parser.add_argument(
        "--most-in-a-cell", type=number(1), default=100.0, help="requests/s that are simulated together"
    )
    parser.add_argument("--window-s", type=number(0.1), default=15.0, help="simulated seconds of a trial")
    add_seed(parser, 0, "arrivals and questions")
    add_output(parser, gpus=["a100-80gb"], rates=[4.0], answer_tokens=[4], window_s=3.0)


def _add_workload(parser: argparse.ArgumentParser) -> None:
    """Adds the requests, and the goal for their answers."""
    parser.add_argument(
        "--rates", type=number(0.5), nargs="+", default=[10, 100, 1000, 10_000], help="requests a second"
    )
    parser.add_argument(
        "--keep", type=count(575), default=64, help="visual tokens kept of 576; a plan with all is added"
    )
    parser.add_argument("--goal-s", type=number(0.001), default=4.0, help="p95 of the time of a whole answer, seconds")
    parser.add_argument("--pictures", dest="images", type=count(8), default=1, help="images of a question")
    parser.add_argument(
        "--answer-tokens", type=count(), nargs="+", default=[16, 32, 48, 64], help="tokens of the answers, in turns"
    )
    parser.add_argument("--answer-hits", type=number(0, 0.99), default=0.0, help="share of answers that are cached")
    parser.add_argument(
        "--visual-token-hits", type=number(0, 1), default=0.0, help="share of questions whose visual tokens are cached"
    )
    parser.add_argument(
        "--bursts", type=number(1, 9.9), default=1.0, help="rate in bursts, a tenth of the time, over the mean rate"
    )


def _add_deployment(parser: argparse.ArgumentParser) -> None:
    """Adds the hardware, and the settings of the services."""
    parser.add_argument("--profile", type=existing_file, default=_PROFILE, help="profile with the costs on the CPU")
    parser.add_argument("--gpus", nargs="+", default=["a100-80gb", "l4"], choices=list(GPUS))
    parser.add_argument(
        "--price-per-gpu-hour", type=number(0), default=1.0, help="price of a GPU-hour, in any currency"
    )
    parser.add_argument(
        "--max-batch-size", type=count(), default=32, help="sequences of an LLM service, if its memory suffices"
    )
    parser.add_argument("--max-concurrent-requests", type=count(), default=256, help="answers in progress in a gateway")
    parser.add_argument(
        "--pod-cores", type=number(0.1), default=8.0, help="CPU cores and decoding threads of an encoder"
    )
    parser.add_argument(
        "--link-gbit-s", type=number(0.001), default=10.0, help="bandwidth of a gateway's link to each stage"
    )
    parser.add_argument(
        "--redis-calls",
        type=number(0),
        default=100_000.0,
        help="calls a second that Redis can answer; 0: caches in the gateways",
    )
    parser.add_argument("--redis-gbit-s", type=number(0.001), default=25.0, help="bandwidth of Redis")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Exit status 1 where `validate` finds a figure that is off by more than 15 %."""
    parser = command_parser("benchmarks.capacity", "Replicas of each stage for a rate of requests, by simulation.")
    commands = parser.add_subparsers(required=True)
    for name, add_arguments, run, description in (
        ("measure", _add_measure, _measure, "measure the costs of every stage on this machine"),
        ("validate", _add_validate, _validate, "compare the simulation with runs of benchmarks.replicas"),
        ("plan", _add_plan, _plan, "replicas of each stage for LLaVA-1.5-7B at given rates and a latency goal"),
    ):
        command = commands.add_parser(name, description=description, help=description)
        command.set_defaults(run=run)
        add_arguments(command)
    options = parser.parse_args(argv)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
