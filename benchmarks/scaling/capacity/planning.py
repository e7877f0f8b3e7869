"""Plans of LLaVA-1.5-7B on a GPU, with all visual tokens and with the kept ones, for `benchmarks.capacity plan`."""

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

_VARIANTS_AT: Final = 100.0  # requests a second; the largest planned rate up to it is used
# Rates of the latency curve, as shares of the capacity of one LLM service.
_SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)


def plan_for(gpu: Gpu, cpu: Profile, options: argparse.Namespace) -> dict[str, Any]:
    """Plans, limits and curves of a GPU, as a result file holds them.

    Args:
        gpu: GPU of both stages.
        cpu: Profile with the costs on the CPU.
        options: Options of the command line.
    """
    workload = Workload(options.images, tuple(options.answer_tokens), options.answer_hits, options.visual_token_hits)
    tables: dict[str, list[dict[str, Any]]] = {"plans": [], "limits": [], "curves": [], "variants": []}
    notes: tuple[str, ...] = ()
    for keep in (None, options.keep):
        profile = derive(gpu, keep, cpu)
        for name, rows in _tables(profile, workload, options).items():
            tables[name] += [{"visual_tokens": str(profile.visual_tokens), **row} for row in rows]
        notes = profile.notes
    return {
        "title": f"LLaVA-1.5-7B on {gpu.name}",
        "options": {name: value for name, value in vars(options).items() if name not in ("out", "run", "profile")},
        **tables,
        "notes": [*notes, *_notes(options)],
    }


def _tables(profile: Profile, workload: Workload, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Rows of all tables for one profile."""
    fit = profile.sequences_in_memory(profile.prompt_tokens(workload.images) + max(workload.answer_tokens))
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
    most = limits(profile, base, workload)
    return {
        "plans": _plans(planner, options),
        "limits": [{"sequences": base.llm_rules.max_batch_size, "sequences_that_fit": fit, "limits": most}],
        "curves": [_curve(planner, most["LLM"])],
        "variants": _variants(planner, options),
    }


def _notes(options: argparse.Namespace) -> tuple[str, ...]:
    return (
        f"assumed: {options.link_gbit_s:g} Gbit/s between a gateway and each stage, Redis of"
        f" {options.redis_calls:,.0f} calls/s and {options.redis_gbit_s:g} Gbit/s, {options.pod_cores:g} cores and"
        " as many decoding threads in each encoder pod",
        f"settings: up to {options.max_batch_size} sequences in an LLM service, up to"
        f" {options.max_concurrent_requests} answers in progress in a gateway, else the defaults",
        "not modelled: calls that cost more the larger their messages are, deadlines, failures, start-up, several"
        " GPUs for one model",
    )


def _base(fit: int | None, options: argparse.Namespace) -> SimulatedDeployment:
    """The deployment with the settings of every replica; `fit` longest sequences fit the memory."""
    sequences = options.max_batch_size if fit is None else min(fit, options.max_batch_size)
    redis = None
    if options.redis_calls:
        redis = Redis(options.redis_calls, options.redis_gbit_s * 1e9)
    return SimulatedDeployment(
        encoders=1,
        llms=1,
        encoder_cores=options.pod_cores,
        encoder_rules=EncoderRules(),
        llm_rules=LLMRules(max_batch_size=max(sequences, 1)),
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
    """Plans at one rate, with other arrivals or cache hits than those of the command line."""
    rate = max([rate for rate in options.rates if rate <= _VARIANTS_AT], default=min(options.rates))
    workload = planner.workload
    planners = {
        "as above": planner,
        "bursts: three times the rate in a tenth of the time": replace(
            planner, burst_factor=3.0, window_s=2 * planner.window_s
        ),
        "a third of the visual tokens cached": replace(planner, workload=replace(workload, visual_token_hits=1 / 3)),
        "a third of the answers cached": replace(planner, workload=replace(workload, answer_hits=1 / 3)),
    }
    rows: list[dict[str, Any]] = []
    for name, variant in planners.items():
        try:
            plan = next(variant.plans([rate]))
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
        "spent_s": {stage: round(seconds, 4) for stage, seconds in outcome.spent_s.items()},
        "most_sequences": outcome.most_sequences,
    }


def _curve(planner: CapacityPlanner, most: float) -> dict[str, Any]:
    """p95 over the rate, for one encoder and one LLM service with enough gateways."""
    deployment = replace(planner.base, encoders=1, llms=1, gateways=4, redis=None)
    planner = replace(planner, window_s=4 * planner.window_s)
    rates = [share * most for share in _SHARES]
    outcomes = [planner.run(deployment, rate) for rate in rates]
    return {
        "rates": [round(rate, 3) for rate in rates],
        "p95_s": [round(outcome.percentile(95), 3) for outcome in outcomes],
        "refused_share": [round(outcome.refused_share, 4) for outcome in outcomes],
    }
