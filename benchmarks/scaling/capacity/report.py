"""The reports of `benchmarks.capacity`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import table

__all__ = ["plan_report", "profile_report", "validation_report"]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def profile_report(result: dict[str, Any]) -> str:
    """The report of `measure`: costs of every stage."""
    profile = result["profile"]
    encode, prefill, decode = profile["encode"], profile["prefill"], profile["decode"]
    stages = {
        "encoder: each forward": encode["fixed"],
        "encoder: each question in it": encode["per_question"],
        "encoder: each image in it": encode["per_image"],
        "encoder: preparing an image file": profile["prepare_per_image"],
        "encoder: rest of a call": profile["encoder_call"],
        "LLM: each prefill": prefill["fixed"],
        "LLM: each prompt in it": prefill["per_sequence"],
        "LLM: each position in it": prefill["per_token"],
        "LLM: each decoding step": decode["fixed"],
        "LLM: each sequence in it": decode["per_sequence"],
        "LLM: a sequence that joins or leaves": profile["regroup"]["fixed"],
        "LLM: rest of a call": profile["llm_call"],
        "LLM: each token sent": profile["llm_per_token"],
        "gateway: each request": profile["gateway_request"],
        "gateway: each further image": profile["gateway_per_image"],
        "gateway: each token passed on": profile["gateway_per_token"],
    }
    return "\n\n".join(
        [
            "# Costs of every stage on this machine",
            f"{origin(result)} Model: {profile['name']}. CPU time, not wall time.",
            table(
                ("cost", "CPU ms"), [(name, _ms(seconds)) for name, seconds in stages.items()], num_labels=1
            ).rstrip(),
            "\n".join(f"* {note}" for note in profile["notes"]) + "\n",
        ]
    )


def validation_report(result: dict[str, Any]) -> str:
    """The report of `validate`: simulated figures beside real ones."""
    rows = [
        (
            row["scenario"],
            row["load"],
            row["shape"],
            row["what"],
            f"{row['real']:.3g}",
            f"{row['simulated']:.3g}",
            f"{100 * row['off_by']:+.0f} %",
            "yes" if row["within"] else "**no**",
        )
        for row in result["rows"]
    ]
    within = sum(row["within"] for row in result["rows"])
    header = ("bottleneck", "load", "encoders x LLMs", "what", "real", "simulated", "off by", "within 15 %")
    return "\n\n".join(
        [
            "# The simulation against the real services",
            f"{origin(result)} Inputs of the simulation are costs of the stages (`capacity_profile.md`: measured on"
            " each service alone, without caps), the services' settings and the caps. No figure of the real runs"
            " (`replicas_encoder.md`, `replicas_llm.md`) is an input. The measurement of costs was changed after a"
            " first comparison with them (`benchmarks/LOG.md`, 2026-11-20: capacity).",
            f"{within} of {len(rows)} figures are within 15 %.",
            table(header, rows, num_labels=4),
        ]
    )


def _plans(rows: Sequence[dict[str, Any]]) -> str:
    header = (
        "requests/s",
        "visual tokens",
        "encoder GPUs",
        "LLM GPUs",
        "gateways",
        "one Redis",
        "cells",
        "p50, s",
        "p95, s",
        "per million answers",
        "keeps the goal up to",
        "then the bottleneck",
    )
    cells = [
        (
            f"{row['rate']:,.0f}",
            row["visual_tokens"],
            f"{row['encoders']:,}",
            f"{row['llms']:,}",
            f"{row['gateways']:,}",
            f"{row['busy']['Redis']:.0%} busy" if row["redis"] else "too slow",
            f"{row['cells']}",
            f"{row['p50_s']:.2f}",
            f"{row['p95_s']:.2f}",
            f"{row['cost_per_million']:,.2f}",
            f"{row['fails_at']:.1f}x",
            row["fails_first"],
        )
        if "encoders" in row
        else (f"{row['rate']:,.0f}", row["visual_tokens"], *["-"] * 9, row["unreachable"])
        for row in rows
    ]
    return table(header, cells, num_labels=0)


def _variants(rows: Sequence[dict[str, Any]]) -> str:
    header = ("at a rate of", "visual tokens", "with", "encoder GPUs", "LLM GPUs", "gateways", "p95, s")
    cells = [
        (
            f"{row['rate']:,.0f}",
            row["visual_tokens"],
            row["variant"],
            *(
                (f"{row['encoders']:,}", f"{row['llms']:,}", f"{row['gateways']:,}", f"{row['p95_s']:.2f}")
                if "encoders" in row
                else ("-", "-", "-", row["unreachable"])
            ),
        )
        for row in rows
    ]
    return table(header, cells, num_labels=3)


def _limits(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["limits"]))
    header = ("visual tokens", "sequences in a batch", "sequences that fit the memory", *names)
    cells = [
        (
            row["visual_tokens"],
            str(row["sequences"]),
            "-" if row["sequences_that_fit"] is None else str(row["sequences_that_fit"]),
            *(f"{row['limits'][name]:,.1f}" if name in row["limits"] else "-" for name in names),
        )
        for row in rows
    ]
    return table(header, cells, num_labels=1)


def plan_report(result: dict[str, Any], plot: str) -> str:
    """The report of `plan` for one GPU; `plot` is the file name of its plot."""
    options = result["options"]
    tokens = f"{min(options['answer_tokens'])} to {max(options['answer_tokens'])}"
    bursts = "" if options["bursts"] == 1 else f", in a tenth of the time at {options['bursts']:g} times the rate"
    return "\n\n".join(
        [
            f"# Capacity, simulated: {result['title']}",
            f"{origin(result)} **Nothing here was measured on a GPU**: costs of the models are derived from a data"
            " sheet and from assumptions, costs on the CPU are those of `capacity_profile.md`.",
            f"Questions about {options['images']} image(s), answers of {tokens} tokens, random arrivals{bursts};"
            f" {options['answer_hits']:.0%} of the answers and {options['visual_token_hits']:.0%} of the visual"
            f" tokens are cached. Goal: p95 of the whole answer within {options['goal_s']:g} s, at"
            f" most 0.1 % refused. A GPU-hour costs {options['price_per_gpu_hour']:g} (an input, in any currency);"
            f" gateways and CPUs are not priced. Above {options['most_in_a_cell']:g} requests/s equal cells are"
            " planned, one of which is simulated; they share nothing but Redis.",
            f"![{result['title']}: GPUs and latency]({plot})",
            "## Replicas",
            _plans(result["plans"]).rstrip(),
            "Other arrivals, and cache hits:",
            _variants(result["variants"]).rstrip(),
            "## Capacity of one replica, requests/s",
            "From the same costs, without queues: the smallest capacity times its number of replicas is the bottleneck."
            " *gateway link* is one gateway's link to the LLM services. Sequences that fit: the longest sequences whose"
            " KV caches fit beside the weights.",
            _limits(result["limits"]).rstrip(),
            "## Assumptions, derivations, other measurements",
            "\n".join(f"* {note}" for note in result["notes"]) + "\n",
        ]
    )
