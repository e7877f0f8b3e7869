"""Inputs of pruners with random features: the shapes of ViT-L/14 at 336 pixels with any number of patches.

`batched` is the only place that knows whether the tensors of a pruner's input have a leading batch axis.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

import torch
from torch import Tensor

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunerInput, TextFeatures, TowerFeatures
from encoder_service.pruners.tower_outputs import OutputKind, TowerOutput

__all__ = ["grid_of", "prunable", "random_input"]

_WIDTH: Final = 1024
_JOINT: Final = 768
_HEAD: Final = 64
_WORDS: Final = 18
_HAS_BATCH_AXIS: Final = "seeds" in {field.name for field in dataclasses.fields(PrunerInput)}


def prunable() -> list[str]:
    """Names of the pruners that run on features alone: all but those inside the tower."""
    return [name for name, pruner in PRUNERS.items() if pruner.bind({}).requirements.in_tower is None]


def grid_of(tokens: int) -> tuple[int, int]:
    """Rows and columns of a grid of `tokens` patches, as square as possible."""
    rows = math.isqrt(tokens)
    while tokens % rows:
        rows -= 1
    return rows, tokens // rows


def random_input(
    pruner: str, grid: tuple[int, int], keep: int, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> PrunerInput:
    """Random features of one image and one question, the same numbers on every device.

    Args:
        pruner: Name of the pruner whose tower outputs the input has.
        grid: Rows and columns of the patches.
        keep: Number of tokens to keep.
        device: Device of the tensors.
        dtype: Dtype of the features.
        seed: Seed of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    patches = grid[0] * grid[1]

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    outputs: dict[TowerOutput, Tensor] = {}
    for output in sorted(PRUNERS[pruner].bind({}).requirements.outputs):
        match output.kind:
            case OutputKind.JOINT:
                outputs[output] = draw(1 + patches, _JOINT)
            case OutputKind.SALIENCY | OutputKind.SALIENCY_ONE_HEAD:
                outputs[output] = draw(patches).float().softmax(0)
            case OutputKind.MEAN_KEYS:
                outputs[output] = draw(patches, _HEAD)
            case OutputKind.CLS_HIDDEN:
                outputs[output] = draw(_WIDTH)
            case _:
                outputs[output] = draw(patches, _WIDTH)
    tokens = draw(_WORDS + 2, _JOINT)
    is_word = torch.tensor([False, *[True] * _WORDS, False], device=device)
    eos_attention = draw(_WORDS + 2).float().softmax(0)
    return batched(
        {"hidden": draw(patches, _WIDTH), "grid": grid, "outputs": outputs},
        {"tokens": tokens, "eos": tokens[-1:], "is_word": is_word, "eos_attention": eos_attention},
        keep,
        seed,
    )


def batched(vision: dict[str, Any], text: dict[str, Any], keep: int, seed: int) -> PrunerInput:
    """The input of a pruner from tensors of one image and one question, with a batch axis of 1 where there is one."""
    more: dict[str, Any] = {"seed": seed}
    if _HAS_BATCH_AXIS:
        vision = _with_batch_axis(vision)
        text = _with_batch_axis(text)
        more = {"seeds": (seed,)}
    return PrunerInput(TowerFeatures(**vision), keep, text=TextFeatures(**text), **more)


def _with_batch_axis(values: dict[str, Any]) -> dict[str, Any]:
    def add(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[None]
        return {name: tensor[None] for name, tensor in value.items()} if isinstance(value, dict) else value

    return {name: add(value) for name, value in values.items()}
