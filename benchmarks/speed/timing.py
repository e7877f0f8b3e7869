"""Times of several sides that are compared: interleaved in one run, so that a busy machine slows all of them alike.

On a CPU that other programs use, `--clock process` compares the CPU time of the process instead of the time that
passes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from benchmarks.harness.arguments import positive
from benchmarks.harness.tables import Spread

__all__ = [
    "CLOCKS",
    "add_timing",
    "goal",
    "goal_of_speedup",
    "interleaved",
    "milliseconds",
    "ratio",
    "seconds",
    "spreads",
    "synchronize",
]


CLOCKS: Final = {"wall": time.perf_counter, "process": time.process_time}


def add_timing(parser: argparse.ArgumentParser, *, rounds: int = 5, warmups: int = 1) -> None:
    """Adds --rounds, --warmups and --clock."""
    parser.add_argument("--rounds", type=positive, default=rounds)
    parser.add_argument("--warmups", type=positive, default=warmups, help="calls of each side before the first round")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="process: CPU time of all threads")


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, clock: str = "wall") -> float:
    """Time of one call, from an idle device to an idle device."""
    read = CLOCKS[clock]
    synchronize(device)
    start = read()
    run()
    synchronize(device)
    return read() - start


def interleaved(
    sides: Mapping[str, Callable[[], object]], device: torch.device, args: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of each side in each round. Every round begins with another side.

    Args:
        sides: Functions to measure, by name.
        device: Device on which the sides run.
        args: Arguments of `add_timing`.
    """
    for run in sides.values():
        for _ in range(args.warmups):
            run()
    names = list(sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(args.rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            times[name].append(seconds(sides[name], device, args.clock))
    return times


def ratio(times: Mapping[str, Sequence[float]], name: str, base: str) -> Spread:
    """Time of one side over that of another, in each round."""
    return Spread.of([one / other for one, other in zip(times[name], times[base], strict=True)])


def goal(value: float, bound: float | None) -> str:
    """Table cell of a goal: "<= 1.05x, met"; "" without one."""
    return "" if bound is None else f"<= {bound:g}x, {'met' if value <= bound else 'missed'}"


def goal_of_speedup(value: float, bound: float | None) -> str:
    """Table cell of a goal from below: ">= 4.5x, met"; "" without one."""
    return "" if bound is None else f">= {bound:g}x, {'met' if value >= bound else 'missed'}"


def milliseconds(spread: Mapping[str, float], digits: int) -> str:
    """Table cell of a spread of seconds, as a result file holds it, in milliseconds."""
    return Spread(**{key: 1e3 * value for key, value in spread.items()}).text(digits)


def spreads(times: Mapping[str, Sequence[float]], digits: int = 6) -> dict[str, Any]:
    """The spreads of all sides in seconds, as a result file holds them."""
    return {name: Spread.of(values).summary(digits) for name, values in times.items()}
