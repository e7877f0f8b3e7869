"""HoloV (NeurIPS 2025): the budget is allocated over crops of the image, so that every region keeps tokens.

A crop is a run of consecutive patches in raster order, as in the authors' code. Attention is that of layer V-2. The
method weights crops by attention and by the variance of similarity, but scales the variance to the attention inside
each crop. The variance therefore adds the same share, 9 %, to every crop and cancels. Without it nothing has to be
measured after the projector, and the tokens are pruned before it. An image in tiles is one sequence: the base tile,
then the mosaic.
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

__all__ = ["PRUNER", "HolovParameters", "crop_quotas", "crop_sizes", "default_crops", "redistribute", "select"]

# Attention is multiplied by 1000. The variance of similarity, scaled to it, has a weight of 0.09.
_SCALE: Final = 1000 * (1 + 0.09)
_EPSILON: Final = 1e-6


@dataclass(frozen=True, slots=True)
class HolovParameters:
    crops: int | None = integer(
        None,
        minimum=1,
        maximum=100_000,
        optional=True,
        description="1 to 100000 or null; number of crops of the image, at most one for each patch; null is 5, 8 and 16"
        " crops for 192, 128 and 64 of 576 tokens",
    )
    fidelity: bool = flag(
        False,
        description="true or false; true replaces tokens beyond a crop's size by zero vectors, as the authors' code"
        " does; false allocates them to other crops",
    )


def default_crops(num_patches: int, keep: int) -> int:
    """Number of crops: max(1, floor(1024 / 576 * N / K)), at most N."""
    return min(max(1024 * num_patches // (576 * keep), 1), num_patches)


def crop_sizes(num_patches: int, crops: int) -> list[int]:
    """Sizes of P crops of N patches; the first N mod P crops have one patch more than the others."""
    return [num_patches // crops + (i < num_patches % crops) for i in range(crops)]


def crop_quotas(attention: Tensor, sizes: Sequence[int], keep: int) -> tuple[list[int], list[int]]:
    """Quota of each crop before it is limited to the crop's size: floor(w K), then one token each by weight.

    The weight w of a crop is its share of the sum of the crops' mean attention.

    Args:
        attention: attention of CLS to each patch, [N].
        sizes: number of patches of each crop, N together.
        keep: K, number of tokens to keep.

    Returns:
        Quotas, K together, and the crops by decreasing weight, the first of equal ones first.
    """
    scores = [float(crop.mean()) * _SCALE for crop in attention.split(list(sizes))]
    weights = [score / (sum(scores) + _EPSILON) for score in scores]
    by_weight = sorted(range(len(sizes)), key=lambda i: (-weights[i], i))
    quotas = [math.floor(weight * keep) for weight in weights]
    # There is more than one round only if the attention has underflown to zero.
    for i in itertools.islice(itertools.cycle(by_weight), keep - sum(quotas)):
        quotas[i] += 1
    return quotas, by_weight


def redistribute(quotas: Sequence[int], sizes: Sequence[int], by_weight: Sequence[int]) -> list[int]:
    """Budgets within the sizes: the excess of full crops goes to crops with room, one token each in rounds by weight.

    Args:
        quotas: number of tokens of each crop, together at most the sum of `sizes`.
        sizes: number of patches of each crop.
        by_weight: crops by decreasing weight.
    """
    budgets = [min(quota, size) for quota, size in zip(quotas, sizes, strict=True)]
    excess = sum(quotas) - sum(budgets)
    for i in itertools.cycle(by_weight):
        if excess == 0:
            return budgets
        if budgets[i] < sizes[i]:
            budgets[i] += 1
            excess -= 1
    raise AssertionError("unreachable: there is a crop")


def select(attention: Tensor, sizes: Sequence[int], budgets: Sequence[int]) -> Tensor:
    """Most attended patches of each crop, crop by crop and by decreasing attention inside a crop.

    A crop that is kept whole stays in raster order.

    Args:
        attention: attention of CLS to each patch, [N].
        sizes: number of patches of each crop, N together.
        budgets: number of tokens of each crop; a budget above the crop's size keeps the whole crop.

    Returns:
        [K] int64, or fewer where a budget exceeds its crop's size.
    """
    kept, start = [], 0
    for crop, budget in zip(attention.split(list(sizes)), budgets, strict=True):
        if budget >= len(crop):
            best = torch.arange(len(crop), device=crop.device)
        else:
            best = torch.sort(crop, descending=True, stable=True).indices[:budget]
        kept.append(start + best)
        start += len(crop)
    return torch.cat(kept)


def prune(inputs: PrunerInput, params: HolovParameters) -> PrunedTokens:
    """Keeps K tokens in the order of `select` and drops all others. The full budget changes nothing."""
    vision = inputs.vision
    if inputs.keep >= vision.num_patches:
        return PrunedTokens.unpruned(vision)
    attention = at_least_float32(vision.outputs[SALIENCY_SECOND_LAST])
    crops = params.crops or default_crops(vision.num_patches, inputs.keep)
    sizes = crop_sizes(vision.num_patches, min(crops, vision.num_patches))
    budgets, by_weight = crop_quotas(attention, sizes, inputs.keep)
    if not params.fidelity:
        budgets = redistribute(budgets, sizes, by_weight)
    pruned = PrunedTokens.of_patches(vision, select(attention, sizes, budgets), saliency_map=attention)
    return _zero_padded(pruned, inputs.keep)


def _zero_padded(pruned: PrunedTokens, keep: int) -> PrunedTokens:
    """The tokens, followed by zero vectors up to K tokens."""
    missing = keep - len(pruned.origins)
    return PrunedTokens(
        features=torch.cat([pruned.features, pruned.features.new_zeros(missing, pruned.features.shape[1])]),
        origins=torch.cat([pruned.origins, pruned.origins.new_full((missing,), TokenOrigin.ZERO)]),
        cluster_of_patch=pruned.cluster_of_patch,
        saliency_map=pruned.saliency_map,
    )


PRUNER = Pruner(
    name="holov",
    summary="Allocates the budget over crops of the image by attention. Keeps the tokens with the most CLS attention in"
    " each crop and drops all others.",
    reference="HoloV, NeurIPS 2025",
    parameters=HolovParameters,
    requirements=lambda params: FeatureRequirements(outputs=frozenset({SALIENCY_SECOND_LAST})),
    prune=prune,
    joins_tiles=True,
)
