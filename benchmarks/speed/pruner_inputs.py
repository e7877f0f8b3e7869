"""Inputs of pruners with random features: the shapes of ViT-L/14 at 336 pixels with any number of patches."""

from __future__ import annotations

import math
from typing import Final

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
    """Random features of one image and one question as a batch of one, the same numbers on every device.

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
        return torch.randn(1, *shape, generator=generator).to(device, dtype)

    outputs: dict[TowerOutput, Tensor] = {}
    for output in sorted(PRUNERS[pruner].bind({}).requirements.outputs):
        match output.kind:
            case OutputKind.JOINT:
                outputs[output] = draw(1 + patches, _JOINT)
            case OutputKind.SALIENCY | OutputKind.SALIENCY_ONE_HEAD:
                outputs[output] = draw(patches).float().softmax(-1)
            case OutputKind.MEAN_KEYS:
                outputs[output] = draw(patches, _HEAD)
            case OutputKind.CLS_HIDDEN:
                outputs[output] = draw(_WIDTH)
            case _:
                outputs[output] = draw(patches, _WIDTH)
    tokens = draw(_WORDS + 2, _JOINT)
    is_word = torch.tensor([[False, *[True] * _WORDS, False]], device=device)
    eos_attention = draw(_WORDS + 2).float().softmax(-1)
    text = TextFeatures(tokens, tokens[:, -1:], is_word, eos_attention, torch.ones_like(is_word))
    vision = TowerFeatures(draw(patches, _WIDTH), grid, outputs)
    return PrunerInput(vision, keep, text, (seed,))
