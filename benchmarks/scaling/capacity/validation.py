"""Comparison of the simulation of one and two replicas with the real services (`benchmarks.replicas`)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.scaling.capacity.encoder import EncoderRules
from benchmarks.scaling.capacity.llm import LLMRules
from benchmarks.scaling.capacity.profile import Profile
from benchmarks.scaling.capacity.simulation import closed_loop, open_loop
from benchmarks.scaling.capacity.system import SimulatedDeployment
from benchmarks.scaling.capacity.workload import Workload
from benchmarks.scaling.replicas_report import cells_of

__all__ = ["TOLERANCE", "compare"]

TOLERANCE: Final = 0.15
_WARM_UP_S: Final = 60.0
_WINDOW_S: Final = 600.0


def _flag(flags: Sequence[str], name: str, default: int) -> int:
    return int(flags[flags.index(name) + 1]) if name in flags else default


def _deployment(result: dict[str, Any], shape: str) -> SimulatedDeployment:
    encoders, llms = map(int, shape.split("x"))
    scenario, flags = result["scenario"], result["flags"]
    return SimulatedDeployment(
        encoders,
        llms,
        encoder_cores=scenario["encoder_cores"],
        llm_cores=scenario["llm_cores"],
        encoder_rules=EncoderRules(max_batch_size=_flag(flags["encoder_service"], "--max-batch-size", 8)),
        llm_rules=LLMRules(max_batch_size=_flag(flags["llm_service"], "--max-batch-size", 8)),
    )


def _row(result: dict[str, Any], load: str, shape: str, what: str, real: float, simulated: float) -> dict[str, Any]:
    return {
        "scenario": result["scenario"]["name"],
        "load": load,
        "shape": shape,
        "what": what,
        "real": round(real, 4),
        "simulated": round(simulated, 4),
        "off_by": round(simulated / real - 1, 4),
        "within": abs(simulated / real - 1) <= TOLERANCE,
    }


def compare(profile: Profile, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Real and simulated throughput and median seconds, for each shape of a scenario.

    Args:
        profile: Profile that was measured on the machine of the runs.
        result: Result of `benchmarks.replicas`.
    """
    scenario = result["scenario"]
    workload = Workload(scenario["request"]["images"], tuple(scenario["request"]["max_tokens"]))
    rows = []
    for shape in dict.fromkeys(cell["shape"] for cell in result["closed_loop"]):
        cells = cells_of(result, shape)
        outcome = closed_loop(
            profile,
            _deployment(result, shape),
            workload,
            clients=scenario["clients"],
            warm_up_s=_WARM_UP_S,
            window_s=_WINDOW_S,
        )
        real = statistics.mean(cell["per_second"] for cell in cells)
        seconds = statistics.median(second for cell in cells for second in cell["seconds"])
        load = f"{scenario['clients']} clients"
        rows.append(_row(result, load, shape, "answers/s", real, outcome.per_second))
        rows.append(_row(result, load, shape, "p50, s", seconds, outcome.percentile(50)))
    for cell in result["below_capacity"]:
        outcome = open_loop(profile, _deployment(result, cell["shape"]), workload, cell["arrivals"], window_s=_WINDOW_S)
        load = f"{cell['rate']:g} arrivals/s"
        rows.append(
            _row(result, load, cell["shape"], "p50, s", statistics.median(cell["seconds"]), outcome.percentile(50))
        )
    return rows
