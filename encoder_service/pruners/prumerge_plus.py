"""PruMerge+ (ICCV 2025): PruMerge whose kept patches are half outliers, half a regular sample of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.prumerge import NEEDS, by_attention, fold, num_outliers
from encoder_service.pruners.tower_outputs import KEYS, SALIENCY_ONE_HEAD
from fovea.parameters import flag

__all__ = ["PRUNER", "adaptive_sample", "even_sample", "released_sample"]


@dataclass(frozen=True, slots=True)
class PruMergePlusParameters:
    adaptive: bool = flag(
        False, description="true or false; true lets the picture decide how many tokens to keep and ignores the budget"
    )
    fidelity: bool = flag(
        False,
        description="true or false; true samples as the authors' code does for a fixed budget: a patch may be kept"
        " twice, and the count follows its grid (193, 129 and 65 rows for 192, 128 and 64)",
    )


def even_sample(top: Tensor, num_patches: int, count: int) -> Tensor:
    """`top`, then `count` of the f patches left over: in raster order those at places floor((2j + 1) f / (2 count))."""
    left = torch.ones(num_patches, dtype=torch.bool, device=top.device)
    left[top] = False
    rest = left.nonzero().squeeze(1)
    places = (2 * torch.arange(count, device=top.device) + 1) * len(rest) // (2 * max(count, 1))
    return torch.cat([top, rest[places]])


def adaptive_sample(top: Tensor, num_patches: int) -> Tensor:
    """`top`, then every s-th patch but the last that is not in it; s = floor(floor(1 / share) / 3), at least 1.

    (Where more than a third stands out the authors' code steps by 0 and fails; by 1 it keeps nearly everything.)

    Args:
        top: At least one patch. (The authors' code fails where nothing stands out.)
        num_patches: N.
    """
    step = max(num_patches // len(top) // 3, 1)
    grid = torch.arange(0, num_patches - 1, step, device=top.device)
    return torch.cat([top, grid[~torch.isin(grid, top)]])


def released_sample(top: Tensor, num_patches: int) -> Tensor:
    """`top`, then patches floor(s / 2), floor(s / 2) + s, ... but the last, s = floor(N / |top|); repeats stay."""
    step = num_patches // len(top)
    return torch.cat([top, torch.arange(step // 2, num_patches - 1, step, device=top.device)])


def prune(job: PrunerInput, params: PruMergePlusParameters) -> PrunedTokens:
    """floor(K / 2) by attention, as many but one (of an odd K, as many) sampled evenly, and the row for the rest.

    The full budget changes nothing. With `fidelity` rows are not K but floor(K / 2), the authors' grid, and one; with
    `adaptive` outliers, their grid, and one.
    """
    vision = job.vision
    if job.keep >= vision.num_patches and not params.adaptive:
        return PrunedTokens.all_of(vision, reading_group=1)
    attention, num_patches = vision.outputs[SALIENCY_ONE_HEAD], vision.num_patches
    if params.adaptive:
        kept = adaptive_sample(by_attention(attention, max(num_outliers(attention), 1)), num_patches)
    elif params.fidelity and job.keep > 1:
        kept = released_sample(by_attention(attention, job.keep // 2), num_patches)
    else:
        kept = even_sample(by_attention(attention, job.keep // 2), num_patches, job.keep - 1 - job.keep // 2)
    return fold(vision.hidden, attention, vision.outputs[KEYS], kept)


PRUNER = Pruner(
    name="prumerge_plus",
    summary="PruMerge with half of its kept tokens spread evenly over the picture.",
    reference="LLaVA-PruMerge, ICCV 2025",
    parameters=PruMergePlusParameters,
    requirements=lambda params: NEEDS,
    prune=prune,
)
