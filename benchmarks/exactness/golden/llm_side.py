"""Golden cases of methods that prune inside the language model, through the LLM service's prefill and decoding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from benchmarks.exactness.golden.case import Array, Context, GoldenCase
from llm_service.engine.pruned_decoding import PrunedDecoder
from llm_service.engine.pruned_prefill import PrunedInputs, prefill
from llm_service.engine.slot_cache import CacheShape, SlotCache
from llm_service.engine.slots import Slot, SlotClass
from llm_service.models.base import ModelInputs
from llm_service.models.decoder import LayeredDecoder
from llm_service.pruners import PRUNERS
from llm_service.pruners.base import Stage, VisualLayout
from llm_service.pruners.plan import bind
from llm_service.pruners.v2drop import num_kept

__all__ = ["METHODS"]


@dataclass(frozen=True)
class _Pruning:
    """Pruning of a case: a pruner of the registry, its parameters, and its stages."""

    pruner: str
    stages: tuple[Stage, ...]
    params: Mapping[str, object]


Reader = Callable[[Mapping[str, Any], int], _Pruning]


def _check_names(params: Mapping[str, Any], *known: str) -> None:
    if unknown := params.keys() - set(known):
        raise ValueError(f"unknown parameters {', '.join(sorted(unknown))}; known: {', '.join(known) or 'none'}")


def _stages(layers: Sequence[int], keep: Sequence[int]) -> tuple[Stage, ...]:
    if len(layers) != len(keep):
        raise ValueError(f"{len(layers)} layers come with {len(keep)} counts")
    return tuple(Stage(*pair) for pair in zip(layers, keep, strict=True))


def _once(pruner: str, *, offset: int = 0) -> Reader:
    """Reader of the cases of a method that prunes once, at the input of `layer` + offset."""

    def read(params: Mapping[str, Any], num_visual: int) -> _Pruning:
        _check_names(params, "layer", "keep")
        return _Pruning(pruner, _stages([params["layer"] + offset], [params["keep"]]), {})

    return read


def _pyramiddrop(params: Mapping[str, Any], num_visual: int) -> _Pruning:
    _check_names(params, "layers", "keep", "ratios")
    keep = params.get("keep") or [max(1, math.floor(num_visual * ratio)) for ratio in params["ratios"]]
    return _Pruning("pyramiddrop", _stages(params["layers"], keep), {})


def _v2drop(params: Mapping[str, Any], num_visual: int) -> _Pruning:
    _check_names(params, "layers", "ratios")
    keep, count = [], num_visual
    for ratio in params["ratios"]:
        count = num_kept(count, ratio)
        keep.append(count)
    return _Pruning("v2drop", _stages(params["layers"], keep), {})


def _sparsevlm(params: Mapping[str, Any], num_visual: int) -> _Pruning:
    _check_names(params, "budget", "plus", "layers", "keep")
    stages = _stages([layer + 1 for layer in params["layers"]], params["keep"])
    # The released code, which computed the data, takes 14 heads whatever the model has.
    return (
        _Pruning("sparsevlm_plus", stages, {"heads": 14}) if params.get("plus") else _Pruning("sparsevlm", stages, {})
    )


def _unpruned(params: Mapping[str, Any], num_visual: int) -> _Pruning:
    _check_names(params)
    return _Pruning("fastv", (), {})


def _runs(read: Reader) -> Callable[[GoldenCase, Context], dict[str, Array]]:
    def run(case: GoldenCase, context: Context) -> dict[str, Array]:
        inputs = context.inputs(case)
        decoder = LayeredDecoder(context.llama)
        embeds = context.tensor(inputs["inputs_embeds"])[0]
        layout = _layout(int(inputs["visual_start"]), int(inputs["visual_count"]), context.device)
        pruning = read(case.params, len(layout))
        pruner = bind(PRUNERS[pruning.pruner], pruning.params)
        plan = pruner.plan_for_stages(pruning.stages, len(layout), decoder.num_layers)
        prompt = ModelInputs(embeds, torch.arange(len(embeds), device=context.device), len(embeds))
        sequence = prefill(decoder, PrunedInputs(prompt, layout, plan))
        next_embeds = context.tensor(inputs["next_embeds"])
        num_positions = 2 * len(embeds) + len(next_embeds)  # a layer may cache the prompt twice
        shape = CacheShape.of(decoder.config, context.dtype)
        pruned = PrunedDecoder(decoder, SlotCache([SlotClass(num_positions, 1)], shape, context.device))
        pruned.append([sequence], [Slot(0, 0)])
        cache_lengths = pruned.lengths[0]
        decoded = [pruned.decode(embed[None])[0] for embed in next_embeds]
        return {
            **{f"stage{i}_visual": kept.cpu().numpy() for i, kept in enumerate(sequence.kept_per_stage)},
            "processed": cache_lengths - (len(embeds) - len(layout)),
            "cache_lengths": cache_lengths,
            "prefill_last": sequence.last_hidden.cpu().numpy(),
            "decode": torch.stack(decoded).cpu().numpy(),
        }

    return run


def _layout(start: int, count: int, device: torch.device) -> VisualLayout:
    """Layout of one image on a square grid."""
    side = math.isqrt(count)
    patches = torch.arange(count, device=device)
    return VisualLayout(start + patches, torch.zeros_like(patches), patches // side, patches % side, ((side, side),))


METHODS: Final[Mapping[str, Callable[[GoldenCase, Context], dict[str, Array]]]] = {
    "unpruned": _runs(_unpruned),
    "fastv": _runs(_once("fastv")),
    "adaptprune": _runs(_once("adaptprune")),
    "flowcut_llm": _runs(_once("flowcut_llm", offset=1)),
    "pyramiddrop": _runs(_pyramiddrop),
    "v2drop": _runs(_v2drop),
    "sparsevlm": _runs(_sparsevlm),
}
