"""Plans of LLaVA-1.5-7B on a GPU, with all visual tokens and with some: what `benchmarks.capacity plan` computes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, Final

from benchmarks.scaling.capacity.encoder import EncoderRules
from benchmarks.scaling.capacity.llm import LLMRules
from benchmarks.scaling.capacity.planner import (
    CapacityPlan,
    CapacityPlanner,
    Goal,
    Unreachable,
    cost_per_million,
    limits,
)
from benchmarks.scaling.capacity.profile import Profile
from benchmarks.scaling.capacity.roofline import Gpu, derive
from benchmarks.scaling.capacity.system import Redis, SimulatedDeployment
from benchmarks.scaling.capacity.workload import Workload

__all__ = ["plan_for"]

_VARIANTS_AT: Final = 100.0  # requests a second, or the next smaller rate that is planned
# Of what one LLM service can do at the most: where its curve of latency is drawn.
_SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)


def plan_for(gpu: Gpu, cpu: Profile, options: argparse.Namespace) -> dict[str, Any]:
    """Plans, limits and curves for the results file.

    Args:
        gpu: For both stages.
        cpu: Where the costs on the CPU come from.
        options: Of the command line.
    """
    workload = Workload(options.pictures, tuple(options.answer_tokens), options.answer_hits, options.visual_token_hits)
    plans: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    variants: list[dict[str, Any]] = []
    notes: tuple[str, ...] = ()
    for keep in (None, options.keep):
        profile = derive(gpu, keep, cpu)
        tokens = {"visual_tokens": str(profile.visual_tokens)}
        fit = profile.rows_in_memory(profile.prompt_tokens(workload.pictures) + max(workload.answer_tokens))
        base = _base(fit, options)
        planner = CapacityPlanner(
            profile,
            workload,
            Goal(options.goal_s),
            base,
            burst_factor=options.bursts,
            window_s=options.window_s,
            most_in_a_cell=options.most_in_a_cell,
            seed=options.seed,
        )
        plans += [tokens | row for row in _plans(planner, options)]
        most = limits(profile, base, workload)
        rows = {"rows": base.llm_rules.max_batch_size, "rows_that_fit": fit}
        ends.append(tokens | rows | {"limits": most})
        curves.append(tokens | _curve(planner, most["LLM"]))
        variants += [tokens | row for row in _variants(planner, options)]
        notes = profile.notes
    return {
        "title": f"LLaVA-1.5-7B on {gpu.name}",
        "options": {name: value for name, value in vars(options).items() if name not in ("out", "run", "profile")},
        "plans": plans,
        "limits": ends,
        "curves": curves,
        "variants": variants,
        "notes": [
            *notes,
            f"assumed: {options.link_gbit_s:g} Gbit/s between a gateway and each stage, Redis of"
            f" {options.redis_calls:,.0f} calls/s and {options.redis_gbit_s:g} Gbit/s, {options.pod_cores:g} cores and"
            " as many decoding threads in each encoder pod",
            f"settings: up to {options.max_batch_size} rows in an LLM service, up to"
            f" {options.max_concurrent_requests} answers in progress in a gateway, else the defaults",
            "not modelled: calls that cost more the larger their messages are, deadlines, failures, start-up, several"
            " GPUs for one model",
        ],
    }


def _base(fit: int | None, options: argparse.Namespace) -> SimulatedDeployment:
    """The settings of every replica; `fit` rows of the longest kind have room in an LLM service."""
    rows = options.max_batch_size if fit is None else min(fit, options.max_batch_size)
    redis = None
    if options.redis_calls:
        redis = Redis(options.redis_calls, options.redis_gbit_s * 1e9)
    return SimulatedDeployment(
        encoders=1,
        llms=1,
        encoder_cores=options.pod_cores,
        encoder_rules=EncoderRules(),
        llm_rules=LLMRules(max_batch_size=max(rows, 1)),
        max_concurrent_requests=options.max_concurrent_requests,
        link_bits_per_second=options.link_gbit_s * 1e9,
        redis=redis,
    )


def _plans(planner: CapacityPlanner, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    found = planner.plans(options.rates)
    for rate in sorted(options.rates):
        try:
            plan = next(found)
        except Unreachable as error:
            return [*rows, {"rate": rate, "unreachable": str(error)}]
        rows.append(_row(plan, options.price_per_gpu_hour))
        print(rows[-1], flush=True)
    return rows


def _variants(planner: CapacityPlanner, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same at one rate, with arrivals or caches that are not those of the plans."""
    rate = max([rate for rate in options.rates if rate <= _VARIANTS_AT], default=min(options.rates))
    workload = planner.workload
    others = {
        "as above": planner,
        "bursts: three times the rate in a tenth of the time": replace(
            planner, burst_factor=3.0, window_s=2 * planner.window_s
        ),
        "a third of the visual tokens cached": replace(planner, workload=replace(workload, visual_token_hits=1 / 3)),
        "a third of the answers cached": replace(planner, workload=replace(workload, answer_hits=1 / 3)),
    }
    rows: list[dict[str, Any]] = []
    for name, other in others.items():
        try:
            plan = next(other.plans([rate]))
        except Unreachable as error:
            rows.append({"variant": name, "rate": rate, "unreachable": str(error)})
        else:
            rows.append({"variant": name, **_row(plan, options.price_per_gpu_hour)})
    return rows


def _row(plan: CapacityPlan, price: float) -> dict[str, Any]:
    outcome = plan.outcome
    return {
        "rate": plan.rate,
        "encoders": plan.encoders,
        "llms": plan.llms,
        "gateways": plan.gateways,
        "redis": plan.deployment.redis is not None,
        "cells": plan.cells,
        "p50_s": round(outcome.percentile(50), 3),
        "p95_s": round(outcome.percentile(95), 3),
        "refused_share": round(outcome.refused_share, 5),
        "cost_per_million": round(cost_per_million(plan, price), 2),
        "fails_at": plan.fails_at,
        "fails_first": plan.fails_first,
        "busy": {name: round(share, 3) for name, share in outcome.busy.items()},
        "spent_s": {place: round(seconds, 4) for place, seconds in outcome.spent_s.items()},
        "most_rows": outcome.most_rows,
    }


def _curve(planner: CapacityPlanner, most: float) -> dict[str, Any]:
    """p95 of one encoder and one LLM service, with gateways to spare, over the rate."""
    one = replace(planner.base, encoders=1, llms=1, gateways=4, redis=None)
    planner = replace(planner, window_s=4 * planner.window_s)
    rates = [share * most for share in _SHARES]
    outcomes = [planner.run(one, rate) for rate in rates]
    return {
        "rates": [round(rate, 3) for rate in rates],
        "p95_s": [round(outcome.percentile(95), 3) for outcome in outcomes],
        "refused_share": [round(outcome.refused_share, 4) for outcome in outcomes],
    }
