"""A profile of the model of `checkpoints/scaled.py`, measured here in CPU time, so that others disturb little.

The models alone say how costs grow with a batch. The running services say what a further picture and a further token
cost there, which is more than in a warm loop, and, less the models, what a call costs besides. What a flow of answers
costs there beyond all that, simulated, is put down to rows that join and leave.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Generator
from pathlib import Path
from typing import Any

import simpy
import torch

from benchmarks.checkpoints import scaled
from benchmarks.scaling.capacity.llm import LLMReplica, LLMRules
from benchmarks.scaling.capacity.model_costs import encoder_costs, fit, language_model_costs
from benchmarks.scaling.capacity.profile import Decode, Profile, Regroup
from benchmarks.scaling.capacity.service_costs import FLOW, FLOW_CLIENTS, LONG_ANSWER, MANY_ROWS, service_costs
from benchmarks.scaling.clients import pictures

__all__ = ["measure"]


def measure(folder: Path, *, repeats: int = 9, rounds: int = 15) -> Profile:
    """The profile of `benchmarks.checkpoints.scaled` on this machine.

    Args:
        folder: For the checkpoint and logs.
        repeats: Of each batch.
        rounds: In which the running services answer one request of each kind.
    """
    torch.set_num_threads(1)
    model, text_tower = scaled.write(folder)
    files = pictures(32, seed=1)
    encode, prepare = encoder_costs(model, text_tower, files, repeats)
    prefill, decode = language_model_costs(model, repeats)
    services = service_costs(model, text_tower, files, rounds, folder / "log")
    took, steps = services.seconds, LONG_ANSWER - 1
    counts = {"one picture": 1, "two pictures": 2, "four pictures": 4}
    call, picture = fit([(1, count) for count in counts.values()], [took[name] for name in counts])
    encode = dataclasses.replace(encode, per_picture=picture - prepare)
    # A step of one row, and of many, tokens sent; what a row costs more than in the bare model is the sending.
    step = (took["one long row"] - took["one row"]) / steps
    full_step = (took["many long rows"] - took["many rows"]) / steps
    row = max((full_step - step) / (MANY_ROWS - 1), 0.0)
    of_model = decode.per_row + decode.per_position * services.prompt_tokens
    sending = max(row - of_model, 0.0)
    decode = Decode(0.0, max(step - row, 0.0), row - sending, 0.0)
    profile = Profile(
        name=f"a random LLaVA of 576 visual tokens ({services.visual_tokens} kept) on this machine's CPU",
        origin="measured",
        notes=(
            "CPU time, one thread a model; medians",
            "CPU ms of the running services: "
            + ", ".join(f"{kind} {1e3 * value:.1f}" for kind, value in took.items())
            + f"; many are {MANY_ROWS}, long is {LONG_ANSWER} tokens",
        ),
        shares_cores=True,
        encode=encode,
        prefill=prefill,
        decode=decode,
        regroup=Regroup(0.0, 0.0),
        prepare_per_picture=prepare,
        encoder_call=max(call - encode.fixed - encode.per_question, 0.0),
        llm_call=max(took["one row"] - prefill.seconds(1, services.prompt_tokens) - sending, 0.0),
        llm_per_token=sending,
        gateway_request=took["request"],
        gateway_per_picture=max(took["request of two pictures"] - took["request"], 0.0),
        gateway_per_token=max(took["request of a long answer"] - took["request"], 0.0) / steps,
        text_tokens=services.prompt_tokens - services.visual_tokens,
        visual_tokens=services.visual_tokens,
        request_bytes=round(statistics.mean(map(len, files))),
        token_bytes=services.wire_bytes / services.visual_tokens,
    )
    simulated, regroups = _flow(profile)
    missing = max(took["a flow of answers"] - simulated, 0.0)
    return dataclasses.replace(profile, regroup=Regroup(missing / regroups, 0.0))


def _flow(profile: Profile) -> tuple[float, int]:
    """CPU seconds of the flow of answers as simulated, and how often a row joins or leaves others in it."""
    env, lengths = simpy.Environment(), iter(FLOW)
    replica = LLMReplica(env, profile, LLMRules(max_batch_size=MANY_ROWS), cores=1.0)

    def client() -> Generator[simpy.Event, Any, None]:
        for tokens in lengths:
            yield from replica.generate(profile.prompt_tokens(1), tokens, env.event())

    for _ in range(FLOW_CLIENTS):
        env.process(client())
    env.run(3600.0)
    return replica.cpu.busy_s(), replica.regroups
