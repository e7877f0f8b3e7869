"""What `benchmarks.capacity` writes for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.report import table

__all__ = ["origin", "plan_report", "profile_report", "validation_report"]


def origin(result: dict[str, Any]) -> str:
    """Where the figures come from."""
    facts = result["provenance"]
    return (
        f"`{facts['command']}`, commit {facts['commit']}, {facts['date']}, {facts['machine']['processor']},"
        f" {facts['machine']['cores']} cores, no accelerator."
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def profile_report(result: dict[str, Any]) -> str:
    """Stage times."""
    profile = result["profile"]
    encode, prefill, decode = profile["encode"], profile["prefill"], profile["decode"]
    stages = {
        "encoder: each forward": encode["fixed"],
        "encoder: each question in it": encode["per_question"],
        "encoder: each picture in it": encode["per_picture"],
        "encoder: decoding a picture file": profile["prepare_per_picture"],
        "encoder: each call, besides": profile["encoder_call"],
        "LLM: each prefill": prefill["fixed"],
        "LLM: each prompt in it": prefill["per_row"],
        "LLM: each position in it": prefill["per_token"],
        "LLM: each decoding step": decode["fixed"],
        "LLM: each row in it": decode["per_row"],
        "LLM: rows that join or leave": profile["regroup"]["fixed"],
        "LLM: each call, besides": profile["llm_call"],
        "LLM: each token sent": profile["llm_per_token"],
        "gateway: each request": profile["gateway_request"],
        "gateway: each further picture": profile["gateway_per_picture"],
        "gateway: each token passed on": profile["gateway_per_token"],
    }
    return "\n\n".join(
        [
            "# What every stage costs here",
            f"{origin(result)} Of {profile['name']}. CPU time, not seconds of a clock.",
            table(
                ("what", "CPU ms"), [(name, _ms(seconds)) for name, seconds in stages.items()], num_labels=1
            ).rstrip(),
            "\n".join(f"* {note}" for note in profile["notes"]) + "\n",
        ]
    )


def validation_report(result: dict[str, Any]) -> str:
    """Simulated beside real."""
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
            f"{origin(result)} The simulation knows stage times (`capacity_profile.md`: measured on each service alone,"
            " not capped), the services' settings and the caps; no figure of the runs beside it (`replicas_encoder.md`,"
            " `replicas_llm.md`) goes in. How costs are measured was changed after a first comparison with them"
            " (`benchmarks/LOG.md`, 2026-11-20: capacity).",
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
        "then short",
    )
    cells = [
        (
            f"{row['rate']:,.0f}",
            row["visual_tokens"],
            f"{row['encoders']:,}",
            f"{row['llms']:,}",
            f"{row['gateways']:,}",
            f"{row['busy']['Redis']:.0%} busy" if row["redis"] else "too little",
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
    header = ("visual tokens", "rows in a batch", "rows that fit the memory", *names)
    cells = [
        (
            row["visual_tokens"],
            str(row["rows"]),
            "-" if row["rows_that_fit"] is None else str(row["rows_that_fit"]),
            *(f"{row['limits'][name]:,.1f}" if name in row["limits"] else "-" for name in names),
        )
        for row in rows
    ]
    return table(header, cells, num_labels=1)


def plan_report(result: dict[str, Any], picture: str) -> str:
    """Plans for one GPU."""
    options = result["options"]
    tokens = f"{min(options['answer_tokens'])} to {max(options['answer_tokens'])}"
    bursts = "" if options["bursts"] == 1 else f", in a tenth of the time {options['bursts']:g} times as many"
    return "\n\n".join(
        [
            f"# Capacity, simulated: {result['title']}",
            f"{origin(result)} **Nothing here was measured on a GPU**: stage times are derived from a data sheet and"
            " from assumptions, costs on the CPU are those of `capacity_profile.md`.",
            f"Questions about {options['pictures']} picture(s), answers of {tokens} tokens, arrivals at random{bursts};"
            f" answers found in a cache {options['answer_hits']:.0%}, visual tokens"
            f" {options['visual_token_hits']:.0%}. Goal: p95 of the whole answer within {options['goal_s']:g} s, at"
            f" most 0.1 % refused. A GPU-hour costs {options['price_per_gpu_hour']:g} (an input, in any currency);"
            f" gateways and CPUs are not priced. Above {options['most_in_a_cell']:g} requests/s equal cells are"
            " planned, one of which is simulated; they share nothing but Redis.",
            f"![{result['title']}: GPUs and latency]({picture})",
            "## What is needed",
            _plans(result["plans"]).rstrip(),
            "Other arrivals, and caches that hit:",
            _variants(result["variants"]).rstrip(),
            "## What one replica can do at the most, requests/s",
            "From the same costs, without queues: whatever is smallest, times its number, is short first. *gateway"
            " link* is one gateway's line to the LLM services. Rows that fit are those of the longest kind whose"
            " key-value caches fit beside the weights.",
            _limits(result["limits"]).rstrip(),
            "## Assumed, derived, measured elsewhere",
            "\n".join(f"* {note}" for note in result["notes"]) + "\n",
        ]
    )
