"""A profile of the model of `checkpoints/scaled.py`, measured here in CPU time, which other processes disturb little.

The growth of costs with a batch is measured on the models alone. The costs of a further image and of a further token
are measured on the running services, where they are higher than in a warm loop; so is the rest of a call. A flow of
answers costs more than all that in a simulation: the difference is the cost of sequences that join and leave a batch.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import simpy
import torch

from benchmarks.checkpoints import scaled
from benchmarks.scaling.capacity.llm import LLMReplica, LLMRules
from benchmarks.scaling.capacity.model_costs import encoder_costs, fit, language_model_costs
from benchmarks.scaling.capacity.profile import Decode, Encode, Prefill, Profile, Regroup
from benchmarks.scaling.capacity.service_costs import (
    FLOW,
    FLOW_CLIENTS,
    LONG_ANSWER,
    MANY_SEQUENCES,
    ServiceCosts,
    service_costs,
)
from benchmarks.scaling.clients import jpeg_files

__all__ = ["measure"]


def measure(folder: Path, *, repeats: int = 9, rounds: int = 15) -> Profile:
    """The profile of `benchmarks.checkpoints.scaled` on this machine.

    Args:
        folder: Folder of the checkpoint and the logs.
        repeats: Measurements of each batch.
        rounds: Rounds in which the running services answer one request of each kind.
    """
    torch.set_num_threads(1)
    model, text_tower = scaled.write(folder)
    files = jpeg_files(32, seed=1)
    encode, prepare = encoder_costs(model, text_tower, files, repeats)
    prefill, decode = language_model_costs(model, repeats)
    services = service_costs(model, text_tower, files, rounds, folder / "log")
    profile = _profile(encode, prefill, decode, services, prepare, files)
    simulated_s, regroups = _flow(profile)
    unexplained_s = max(services.seconds["a flow of answers"] - simulated_s, 0.0)
    return dataclasses.replace(profile, regroup=Regroup(unexplained_s / regroups, 0.0))


def _profile(
    encode: Encode, prefill: Prefill, decode: Decode, services: ServiceCosts, prepare: float, files: Sequence[bytes]
) -> Profile:
    """The profile without the costs of sequences that join and leave.

    Args:
        encode: Costs of the encoder's model alone.
        prefill: Costs of the prefill of the language model alone.
        decode: Costs of its decoding.
        services: Costs of the running services.
        prepare: Seconds of preparing an image.
        files: Image files of the measurement.
    """
    seconds, steps = services.seconds, LONG_ANSWER - 1
    counts = {"one image": 1, "two images": 2, "four images": 4}
    call, image = fit([(1, count) for count in counts.values()], [seconds[name] for name in counts])
    encode = dataclasses.replace(encode, per_image=image - prepare)
    decode, sending = _decode(decode, services)
    return Profile(
        name=f"a random LLaVA of 576 visual tokens ({services.visual_tokens} kept) on this machine's CPU",
        origin="measured",
        notes=(
            "CPU time, one thread for each model; medians",
            "CPU ms of the running services: "
            + ", ".join(f"{kind} {1e3 * value:.1f}" for kind, value in seconds.items())
            + f"; many are {MANY_SEQUENCES}, long is {LONG_ANSWER} tokens",
        ),
        shares_cores=True,
        encode=encode,
        prefill=prefill,
        decode=decode,
        regroup=Regroup(0.0, 0.0),
        prepare_per_image=prepare,
        encoder_call=max(call - encode.fixed - encode.per_question, 0.0),
        llm_call=max(seconds["one sequence"] - prefill.seconds(1, services.prompt_tokens) - sending, 0.0),
        llm_per_token=sending,
        gateway_request=seconds["request"],
        gateway_per_image=max(seconds["request of two images"] - seconds["request"], 0.0),
        gateway_per_token=max(seconds["request of a long answer"] - seconds["request"], 0.0) / steps,
        text_tokens=services.prompt_tokens - services.visual_tokens,
        visual_tokens=services.visual_tokens,
        request_bytes=round(statistics.mean(map(len, files))),
        token_bytes=services.wire_bytes / services.visual_tokens,
    )


def _decode(model: Decode, services: ServiceCosts) -> tuple[Decode, float]:
    """Costs of a decoding step of the running service, and seconds of sending a token.

    A sequence costs more there than in the model alone; the difference is the cost of sending its token.
    """
    seconds, steps = services.seconds, LONG_ANSWER - 1
    step = (seconds["one long sequence"] - seconds["one sequence"]) / steps
    full_step = (seconds["many long sequences"] - seconds["many sequences"]) / steps
    per_sequence = max((full_step - step) / (MANY_SEQUENCES - 1), 0.0)
    sending = max(per_sequence - model.per_sequence - model.per_position * services.prompt_tokens, 0.0)
    return Decode(0.0, max(step - per_sequence, 0.0), per_sequence - sending, 0.0), sending


def _flow(profile: Profile) -> tuple[float, int]:
    """Simulated CPU seconds of the flow of answers, and how often a sequence joins or leaves a batch in it."""
    env, lengths = simpy.Environment(), iter(FLOW)
    replica = LLMReplica(env, profile, LLMRules(max_batch_size=MANY_SEQUENCES), cores=1.0)

    def client() -> Generator[simpy.Event, Any, None]:
        for tokens in lengths:
            yield from replica.generate(profile.prompt_tokens(1), tokens, env.event())

    for _ in range(FLOW_CLIENTS):
        env.process(client())
    env.run(3600.0)
    return replica.cpu.busy_s(), replica.regroups
