"""A derived profile of LLaVA-1.5-7B on a GPU: operations and bytes over the peaks of a data sheet.

Nothing in it is measured on a GPU. Operations are those of `benchmarks/speed/operations.py`. The shares of the peaks
that are reached and the least time of an eager layer are assumptions, which the profile's notes name. Costs on the CPU
are those of a measured profile.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.scaling.capacity.profile import Decode, Encode, Prefill, Profile, Regroup
from benchmarks.speed.operations import Decoder, TextTower, VisionTower, merging, projector

__all__ = ["GPUS", "Assumptions", "Gpu", "derive"]

_WORDS: Final = 30  # tokens of a question in the text tower
_VOCABULARY: Final = 32064
_BYTES: Final = 2  # bytes of a value in 16 bits
_OPERATIONS: Final = 2  # of a multiply-add
# A visual token as float16 with its share of the message; see benchmarks/results/link.md.
_TOKEN_BYTES: Final = 131_244 / 64


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU in its data sheet."""

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
    """Assumptions, as no data sheet has these figures.

    Attributes:
        compute: Share of the peak operations that the towers and the prefill reach.
        bandwidth: Share of the peak bandwidth that decoding reaches.
        layer_s: Least seconds of a layer, for Python and kernel launches, as the models run eagerly.
        question_s: Seconds of the pruner and of the text tower's launches for a question.
        cache_passes: Reads and writes of the KV cache in a step: transformers' DynamicCache appends by copying it, and
            attention reads it.
        regroup_passes: Reads and writes of the KV cache when a sequence joins or leaves: all sequences are copied,
            padded or cut to another length.
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
        """The assumptions as sentences of a report."""
        return (
            f"assumed: {self.compute:.0%} of the peak operations in towers and prefill, {self.bandwidth:.0%} of the"
            " peak bandwidth in decoding",
            f"assumed: an eager layer takes at least {1e3 * self.layer_s:g} ms; text tower and pruner"
            f" {1e3 * self.question_s:g} ms a question",
            f"derived from the engine's code: the KV caches of all sequences are read or written {self.cache_passes}"
            f" times a step (they grow by copying), and {self.regroup_passes} times when a sequence joins or leaves",
            f"assumed: {self.memory:.0%} of the memory for weights and KV caches",
        )


def derive(gpu: Gpu, keep: int | None, cpu: Profile, assumed: Assumptions | None = None) -> Profile:
    """The profile of LLaVA-1.5-7B in 16 bits, each stage on a GPU of its own.

    Args:
        gpu: The GPU.
        keep: Visual tokens that DeSAP keeps of 576; None: nothing is pruned.
        cpu: Profile with the costs on the CPU and the size of an image file.
        assumed: Assumptions; None: the defaults.
    """
    assumed = assumed or Assumptions()
    decoder, vision = Decoder(), VisionTower()
    tokens = vision.num_patches if keep is None else keep
    kv_bytes = 2 * decoder.num_layers * decoder.key_value_size * _BYTES
    weight_bytes = _BYTES * (_per_token(decoder) + 2 * _head(decoder) + _projector(1))
    return dataclasses.replace(
        cpu,
        name=f"LLaVA-1.5-7B on {gpu.name}, {'all 576' if keep is None else keep} visual tokens",
        origin="derived",
        notes=(
            f"data sheet: {gpu.flops_per_second / 1e12:g} TFLOP/s, {gpu.bytes_per_second / 1e9:g} GB/s,"
            f" {gpu.memory_bytes / 1e9:g} GB",
            *assumed.notes(),
            "measured on the CPU of this project's machine: decoding of images, calls, tokens passed on, gateway",
        ),
        shares_cores=False,
        encode=_encode(gpu, keep, assumed),
        visual_tokens=tokens,
        text_tokens=2 * _WORDS,
        token_bytes=_TOKEN_BYTES,
        kv_bytes_per_token=kv_bytes,
        kv_bytes=max(int(assumed.memory * gpu.memory_bytes - weight_bytes), 0),
        **_language_model(gpu, tokens, assumed, weight_bytes, kv_bytes),
    )


def _per_token(decoder: Decoder) -> int:
    """Multiply-adds of a token in all layers without attention, which is also their number of weights."""
    return decoder.num_layers * (decoder.layer(1) - 2 * decoder.hidden_size)


def _head(decoder: Decoder) -> int:
    """Multiply-adds and weights of the language model's head."""
    return decoder.hidden_size * _VOCABULARY


def _projector(tokens: int) -> int:
    return projector(tokens, VisionTower().hidden_size, Decoder().hidden_size)


def _multiply_adds(gpu: Gpu, assumed: Assumptions) -> float:
    """Multiply-adds a second in the towers and in the prefill."""
    return gpu.flops_per_second * assumed.compute / _OPERATIONS


def _encode(gpu: Gpu, keep: int | None, assumed: Assumptions) -> Encode:
    vision, text, rate = VisionTower(), TextTower(), _multiply_adds(gpu, assumed)
    tower = vision.up_to_the_last_layer()
    if keep is not None:
        tower += vision.decoupled_branch() + vision.joint_projection(text.joint_size) + vision.cls_attention()
        tower += merging(vision.num_patches, keep, vision.hidden_size)
    return Encode(
        floor=vision.num_layers * assumed.layer_s,
        fixed=0.0,
        per_question=0.0 if keep is None else assumed.question_s + text.whole(_WORDS) / rate,
        per_image=tower / rate,
    )


def _language_model(gpu: Gpu, tokens: int, assumed: Assumptions, weight_bytes: int, kv_bytes: int) -> dict[str, Any]:
    """Prefill, decoding and regrouping, as fields of a profile."""
    decoder, rate = Decoder(), _multiply_adds(gpu, assumed)
    bytes_per_second = gpu.bytes_per_second * assumed.bandwidth
    layers_s, weights_s = decoder.num_layers * assumed.layer_s, weight_bytes / bytes_per_second
    return {
        "prefill": Prefill(
            floor=max(layers_s, weights_s),
            fixed=0.0,
            per_sequence=(_head(decoder) + _projector(tokens)) / rate,
            per_token=_per_token(decoder) / rate,
            per_square=2 * decoder.hidden_size * decoder.num_layers / rate,
        ),
        "decode": Decode(
            floor=layers_s,
            fixed=weights_s,
            per_sequence=(_per_token(decoder) + _head(decoder)) / rate,
            per_position=assumed.cache_passes * kv_bytes / bytes_per_second,
        ),
        "regroup": Regroup(fixed=0.0, per_position=assumed.regroup_passes * kv_bytes / bytes_per_second),
    }
