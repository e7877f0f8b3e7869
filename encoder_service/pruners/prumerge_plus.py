"""PruMerge+ (ICCV 2025): PruMerge with half of the kept patches by attention and half sampled evenly from the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.image_by_image import image_by_image
from encoder_service.pruners.prumerge import (
    REQUIREMENTS,
    dropped_of_released,
    merge_neighbours,
    most_attended,
    num_outliers,
)
from encoder_service.pruners.selection import complement
from encoder_service.pruners.tower_outputs import KEYS, SALIENCY_ONE_HEAD
from fovea.parameters import flag

__all__ = ["PRUNER", "adaptive_sample", "even_sample", "released_sample"]


@dataclass(frozen=True, slots=True)
class PruMergePlusParameters:
    adaptive: bool = flag(
        False,
        description="true or false; true ignores the budget and keeps the patches whose attention is an outlier and a"
        " sample of the others",
    )
    fidelity: bool = flag(
        False,
        description="true or false; true samples as the authors' code does for a fixed budget: a patch may be kept"
        " twice, and the number of tokens differs from the budget (193, 129 and 65 for 192, 128 and 64)",
    )


def even_sample(top: Tensor, num_patches: int, count: int) -> Tensor:
    """`top`, then `count` of the f other patches in raster order: those at floor((2j + 1) f / (2 count)) among them.

    Args:
        top: patches kept by attention, [m] int64.
        num_patches: N, number of patches.
        count: number of patches to sample.

    Returns:
        [m + count] int64.
    """
    others = complement(top, num_patches)
    sampled = (2 * torch.arange(count, device=top.device) + 1) * others.shape[-1] // (2 * max(count, 1))
    return torch.cat([top, others[..., sampled]], dim=-1)


def adaptive_sample(top: Tensor, num_patches: int) -> Tensor:
    """`top`, then every s-th patch that is not in it, without the last patch; s = max(1, floor(floor(N / m) / 3)).

    If more than a third of the patches are outliers, the authors' code fails with a step of 0. A step of 1 keeps nearly
    all patches.

    Args:
        top: outliers of the attention, [m] int64, m >= 1. The authors' code fails if there are none.
        num_patches: N, number of patches.
    """
    step = max(num_patches // len(top) // 3, 1)
    grid = torch.arange(0, num_patches - 1, step, device=top.device)
    return torch.cat([top, grid[~torch.isin(grid, top)]])


def released_sample(top: Tensor, num_patches: int) -> Tensor:
    """`top` [m], then patches floor(s / 2), floor(s / 2) + s, ... without the last patch; s = floor(N / m).

    This is the sample of the authors' code for a fixed budget. A patch of `top` may occur again.
    """
    step = num_patches // len(top)
    return torch.cat([top, torch.arange(step // 2, num_patches - 1, step, device=top.device)])


def prune(inputs: PrunerInput, params: PruMergePlusParameters) -> PrunedTokens:
    """Keeps floor(K / 2) patches by attention, K - 1 - floor(K / 2) sampled evenly, and the sum of all others.

    The full budget changes nothing. With `fidelity` the sample is that of the authors' code; with `adaptive` the
    outliers and their sample are kept. Neither keeps exactly K tokens, and both work image by image.
    """
    vision = inputs.vision
    if params.adaptive:
        return image_by_image(_prune_adaptively, inputs)
    if inputs.keep >= vision.num_patches:
        return PrunedTokens.unpruned(vision, reading_group=1)
    if params.fidelity and inputs.keep > 1:
        return image_by_image(_prune_as_released, inputs)
    attention = vision.outputs[SALIENCY_ONE_HEAD]
    top = most_attended(attention, inputs.keep // 2)
    kept = even_sample(top, vision.num_patches, inputs.keep - 1 - inputs.keep // 2)
    return merge_neighbours(vision.hidden, attention, vision.outputs[KEYS], kept)


def _prune_adaptively(inputs: PrunerInput) -> PrunedTokens:
    vision = inputs.vision
    attention = vision.outputs[SALIENCY_ONE_HEAD]
    kept = adaptive_sample(most_attended(attention, max(num_outliers(attention), 1)), vision.num_patches)
    return merge_neighbours(vision.hidden, attention, vision.outputs[KEYS], kept)


def _prune_as_released(inputs: PrunerInput) -> PrunedTokens:
    vision = inputs.vision
    attention = vision.outputs[SALIENCY_ONE_HEAD]
    kept = released_sample(most_attended(attention, inputs.keep // 2), vision.num_patches)
    dropped = dropped_of_released(kept, vision.num_patches)
    return merge_neighbours(vision.hidden, attention, vision.outputs[KEYS], kept, dropped)


PRUNER = Pruner(
    name="prumerge_plus",
    summary="PruMerge with half of the kept tokens sampled evenly from the image.",
    reference="LLaVA-PruMerge, ICCV 2025",
    parameters=PruMergePlusParameters,
    requirements=lambda params: REQUIREMENTS,
    prune=prune,
)
