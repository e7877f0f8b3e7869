"""A profile of LLaVA-1.5-7B on a GPU that is not here: operations and bytes over what a data sheet promises.

Nothing in it is measured on a GPU. Operations are those of `benchmarks/speed/operations.py`; how much of the peaks is
reached, and what an eager layer costs at least, are assumptions and stand in the profile's notes. What the CPU does is
taken from a profile that was measured.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.scaling.capacity.profile import Decode, Encode, Prefill, Profile, Regroup
from benchmarks.speed.operations import Decoder, TextTower, VisionTower, merging, projector

__all__ = ["GPUS", "Assumptions", "Gpu", "derive"]

_WORDS: Final = 30  # of a question, in the text tower
_VOCABULARY: Final = 32064
_BYTES: Final = 2  # of a value in 16 bits
_OPERATIONS: Final = 2  # a multiplication and an addition
# A token of float16 channels, and what the message says about it; see benchmarks/results/link.md.
_TOKEN_BYTES: Final = 131_244 / 64


@dataclass(frozen=True)
class Gpu:
    """Peaks of a data sheet."""

    name: str
    flops_per_second: float
    bytes_per_second: float
    memory_bytes: float


def _gpus() -> dict[str, Gpu]:
    values = tomllib.loads((Path(__file__).parent / "gpus.toml").read_text(encoding="utf-8"))
    return {name: Gpu(**fields) for name, fields in values.items()}


GPUS: Final = _gpus()


@dataclass(frozen=True)
class Assumptions:
    """What no data sheet says.

    Attributes:
        compute: Share of the peak that the towers and the prefill reach.
        bandwidth: Share of the peak that decoding reaches.
        layer_s: What a layer takes at least: Python and launches, as the models run eagerly.
        question_s: Pruning a question, row by row, and its text tower's launches.
        cache_passes: How often a step reads or writes the key-value cache: transformers' DynamicCache appends by
            copying it, and attention reads it.
        regroup_passes: Likewise when a row joins or leaves: all rows are copied, padded or cut to another length.
        memory: Share of the memory that may be used.
    """

    compute: float = 0.4
    bandwidth: float = 0.6
    layer_s: float = 0.0005
    question_s: float = 0.002
    cache_passes: int = 3
    regroup_passes: int = 3
    memory: float = 0.9

    def notes(self) -> tuple[str, ...]:
        """For people."""
        return (
            f"assumed: {self.compute:.0%} of the peak operations in towers and prefill, {self.bandwidth:.0%} of the"
            " peak bandwidth in decoding",
            f"assumed: an eager layer takes at least {1e3 * self.layer_s:g} ms; text tower and pruner"
            f" {1e3 * self.question_s:g} ms a question",
            f"derived from the engine's code: the key-value caches of all rows are passed over {self.cache_passes}"
            f" times a step (they grow by copying), and {self.regroup_passes} times when a row joins or leaves",
            f"assumed: {self.memory:.0%} of the memory for weights and key-value caches",
        )


def derive(gpu: Gpu, keep: int | None, cpu: Profile, assumed: Assumptions | None = None) -> Profile:
    """LLaVA-1.5-7B in 16 bits, each stage on a GPU of its own.

    Args:
        gpu: Which.
        keep: Visual tokens that DeSAP keeps of 576; None: nothing is pruned.
        cpu: Where the costs on the CPU come from, and the size of a picture file.
        assumed: Instead of the defaults.
    """
    assumed = assumed or Assumptions()
    decoder, vision, text = Decoder(), VisionTower(), TextTower()
    flops = gpu.flops_per_second * assumed.compute / _OPERATIONS  # multiply-adds a second
    stream = gpu.bytes_per_second * assumed.bandwidth
    tokens = vision.num_patches if keep is None else keep
    tower = vision.up_to_the_last_layer()
    if keep is not None:
        tower += vision.decoupled_branch() + vision.joint_projection(text.joint_size) + vision.cls_attention()
        tower += merging(vision.num_patches, keep, vision.hidden_size)
    width, layers = decoder.hidden_size, decoder.num_layers
    per_token = layers * (decoder.layer(1) - 2 * width)
    head = width * _VOCABULARY
    weights = per_token + 2 * head + projector(1, vision.hidden_size, width)
    kv_bytes = 2 * layers * decoder.key_value_size * _BYTES
    return dataclasses.replace(
        cpu,
        name=f"LLaVA-1.5-7B on {gpu.name}, {'all 576' if keep is None else keep} visual tokens",
        origin="derived",
        notes=(
            f"data sheet: {gpu.flops_per_second / 1e12:g} TFLOP/s, {gpu.bytes_per_second / 1e9:g} GB/s,"
            f" {gpu.memory_bytes / 1e9:g} GB",
            *assumed.notes(),
            "measured on the CPU of this project's machine: pictures decoded, calls, tokens passed on, gateway",
        ),
        shares_cores=False,
        encode=Encode(
            floor=vision.num_layers * assumed.layer_s,
            fixed=0.0,
            per_question=0.0 if keep is None else assumed.question_s + text.whole(_WORDS) / flops,
            per_picture=tower / flops,
        ),
        prefill=Prefill(
            floor=max(layers * assumed.layer_s, weights * _BYTES / stream),
            fixed=0.0,
            per_row=(head + projector(tokens, vision.hidden_size, width)) / flops,
            per_token=per_token / flops,
            per_square=2 * width * layers / flops,
        ),
        decode=Decode(
            floor=layers * assumed.layer_s,
            fixed=weights * _BYTES / stream,
            per_row=(per_token + head) / flops,
            per_position=assumed.cache_passes * kv_bytes / stream,
        ),
        regroup=Regroup(fixed=0.0, per_position=assumed.regroup_passes * kv_bytes / stream),
        visual_tokens=tokens,
        text_tokens=2 * _WORDS,
        token_bytes=_TOKEN_BYTES,
        kv_bytes_per_token=kv_bytes,
        kv_bytes=max(int(assumed.memory * gpu.memory_bytes - weights * _BYTES), 0),
    )
