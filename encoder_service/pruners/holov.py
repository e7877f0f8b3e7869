"""HoloV (NeurIPS 2025): the budget is dealt out over crops of the picture, so that no region goes empty.

A crop is a run of consecutive patches in raster order (the authors' code knows no two-dimensional ones), attention is
that of layer V-2. The method weighs crops by attention and by the variance of similarity, but scales the latter to the
former inside each crop: it adds the same share, 9 %, to every crop and cancels. So nothing is left that must be
measured after the projector, and the tokens leave before it like any others. A tiled picture is one sequence for it:
the base tile, then the mosaic of the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TokenOrigin
from encoder_service.pruners.tower_outputs import SALIENCY_SECOND_LAST
from fovea.modeling.numerics import at_least_float32
from fovea.parameters import flag, integer

__all__ = ["PRUNER", "HolovParameters", "crop_sizes", "default_crops", "quotas", "redistribute", "select"]

# Attention is multiplied by 1000; the variance of similarity, scaled to it, counts 0.09 times.
_SCALE: Final = 1000 * (1 + 0.09)
_EPSILON: Final = 1e-6


@dataclass(frozen=True, slots=True)
class HolovParameters:
    crops: int | None = integer(
        None,
        minimum=1,
        maximum=100_000,
        optional=True,
        description="1 to 100000 or null; crops of the picture, at most one a patch; null gives 5, 8 and 16 for 192,"
        " 128 and 64 of 576",
    )
    fidelity: bool = flag(
        False,
        description="true or false; true loses what a full crop cannot take, as the authors' code does, and fills up"
        " with rows of zeros",
    )


def default_crops(num_patches: int, keep: int) -> int:
    """max(1, floor(1024 / 576 * N / K)), at most N."""
    return min(max(1024 * num_patches // (576 * keep), 1), num_patches)


def crop_sizes(num_patches: int, crops: int) -> list[int]:
    """Nearly equal lengths; the first N mod P crops have one more."""
    return [num_patches // crops + (i < num_patches % crops) for i in range(crops)]


def quotas(attention: Tensor, sizes: Sequence[int], keep: int) -> tuple[list[int], list[int]]:
    """Tokens granted to each crop, before its size bounds them: floor(w K), and the remainder one each by weight.

    Args:
        attention: [N].
        sizes: Of the crops, N together.
        keep: K.

    Returns:
        Quotas, K together, and the crops by falling weight, of equal ones the first first.
    """
    scores = [float(crop.mean()) * _SCALE for crop in attention.split(list(sizes))]
    weights = [score / (sum(scores) + _EPSILON) for score in scores]
    by_weight = sorted(range(len(sizes)), key=lambda i: (-weights[i], i))
    granted = [math.floor(weight * keep) for weight in weights]
    # More than one round only where attention has underflown to nothing.
    for i in itertools.islice(itertools.cycle(by_weight), keep - sum(granted)):
        granted[i] += 1
    return granted, by_weight


def redistribute(granted: Sequence[int], sizes: Sequence[int], by_weight: Sequence[int]) -> list[int]:
    """What a full crop cannot take goes to the crops with room, one each by falling weight, in rounds."""
    taken = [min(quota, size) for quota, size in zip(granted, sizes, strict=True)]
    surplus = sum(granted) - sum(taken)
    for i in itertools.cycle(by_weight):
        if surplus == 0:
            return taken
        if taken[i] < sizes[i]:
            taken[i] += 1
            surplus -= 1
    raise AssertionError("unreachable: there is a crop")


def select(attention: Tensor, sizes: Sequence[int], granted: Sequence[int]) -> Tensor:
    """Patches crop by crop, inside a crop by falling attention; a crop that is kept whole stays in raster order."""
    kept, start = [], 0
    for crop, quota in zip(attention.split(list(sizes)), granted, strict=True):
        if quota >= len(crop):
            best = torch.arange(len(crop), device=crop.device)
        else:
            best = torch.sort(crop, descending=True, stable=True).indices[:quota]
        kept.append(start + best)
        start += len(crop)
    return torch.cat(kept)


def prune(job: PrunerInput, params: HolovParameters) -> PrunedTokens:
    """K tokens in the order of `select`; the others leave no trace. The full budget changes nothing."""
    vision = job.vision
    if job.keep >= vision.num_patches:
        return PrunedTokens.all_of(vision)
    attention = at_least_float32(vision.outputs[SALIENCY_SECOND_LAST])
    crops = params.crops or default_crops(vision.num_patches, job.keep)
    sizes = crop_sizes(vision.num_patches, min(crops, vision.num_patches))
    granted, by_weight = quotas(attention, sizes, job.keep)
    if not params.fidelity:
        granted = redistribute(granted, sizes, by_weight)
    some = PrunedTokens.some_of(vision, select(attention, sizes, granted), saliency_map=attention)
    return _filled_up(some, job.keep)


def _filled_up(some: PrunedTokens, keep: int) -> PrunedTokens:
    """With rows of zeros to K."""
    missing = keep - len(some.origins)
    return PrunedTokens(
        features=torch.cat([some.features, some.features.new_zeros(missing, some.features.shape[1])]),
        origins=torch.cat([some.origins, some.origins.new_full((missing,), TokenOrigin.ZERO)]),
        cluster_of_patch=some.cluster_of_patch,
        saliency_map=some.saliency_map,
    )


PRUNER = Pruner(
    name="holov",
    summary="Deals the budget out over crops of the picture by attention; in each keeps what CLS attends to most.",
    reference="HoloV, NeurIPS 2025",
    parameters=HolovParameters,
    requirements=lambda params: FeatureRequirements(outputs=frozenset({SALIENCY_SECOND_LAST})),
    prune=prune,
    joins_tiles=True,
)
