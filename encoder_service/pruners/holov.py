"""HoloV (NeurIPS 2025): the budget is allocated over crops of the image, so that every region keeps tokens.

A crop is a run of consecutive patches in raster order, as in the authors' code. Attention is that of layer V-2. The
method weights crops by attention and by the variance of similarity, but scales the variance to the attention inside
each crop. The variance therefore adds the same share, 9 %, to every crop and cancels. Without it nothing has to be
measured after the projector, and the tokens are pruned before it. An image in tiles is one sequence: the base tile,
then the mosaic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TokenOrigin
from encoder_service.pruners.tower_outputs import SALIENCY_SECOND_LAST
from fovea.modeling.numerics import at_least_float32
from fovea.modeling.transfers import to_device
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


def crop_quotas(attention: Tensor, sizes: Sequence[int], keep: int) -> tuple[Tensor, Tensor]:
    """Quota of each crop before it is limited to the crop's size: floor(w K), then one token each by weight.

    The weight w of a crop is its share of the sum of the crops' mean attention.

    Args:
        attention: attention of CLS to each patch, [N].
        sizes: sizes of the P crops, see `crop_sizes`.
        keep: K, number of tokens to keep.

    Returns:
        Quotas, K together, and the rank of each crop by weight, 0 for the largest and the first of equal ones; [P].
    """
    scores = _crop_means(attention, sizes).double() * _SCALE
    weights = scores / (scores.sum(dim=-1, keepdim=True) + _EPSILON)
    rank = weights.sort(dim=-1, descending=True, stable=True).indices.argsort(dim=-1)
    quotas = (weights * keep).long()  # not negative, so this rounds down
    missing = keep - quotas.sum(dim=-1, keepdim=True)
    # There is more than one round only if the attention has underflown to zero.
    return quotas + missing // len(sizes) + (rank < missing % len(sizes)), rank


def _crop_means(attention: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean attention of each crop, [P]. The first crops have one patch more than the last ones, or all are equal."""
    num_larger = sum(size > sizes[-1] for size in sizes)
    end = num_larger * sizes[0]
    smaller: Tensor = attention[..., end:].unflatten(-1, (-1, sizes[-1])).mean(dim=-1)
    if not num_larger:
        return smaller
    return torch.cat([attention[..., :end].unflatten(-1, (-1, sizes[0])).mean(dim=-1), smaller], dim=-1)


def redistribute(quotas: Tensor, sizes: Sequence[int], rank: Tensor) -> Tensor:
    """Budgets within the sizes: the excess of full crops goes to crops with room, one token each in rounds by weight.

    Args:
        quotas: number of tokens of each crop, [P] int64, together at most the sum of `sizes`.
        sizes: number of patches of each crop.
        rank: rank of each crop by weight, [P].

    Returns:
        [P] int64.
    """
    room_of_crop = to_device(torch.tensor(sizes), quotas.device)
    budgets = torch.minimum(quotas, room_of_crop)
    room = room_of_crop - budgets
    excess = (quotas - budgets).sum(dim=-1, keepdim=True)
    # In r whole rounds each crop takes min(room, r) tokens.
    rounds = torch.arange(1, max(sizes) + 1, device=quotas.device)
    given = torch.minimum(room[..., None], rounds).sum(dim=-2)
    num_rounds = (given <= excess).sum(dim=-1, keepdim=True)
    whole = torch.minimum(room, num_rounds)
    # In the last round those with the largest weights take the tokens that are left.
    has_room = room > num_rounds
    by_rank = torch.zeros_like(has_room).scatter_(-1, rank, has_room)
    place = by_rank.cumsum(dim=-1).gather(-1, rank)
    left = excess - whole.sum(dim=-1, keepdim=True)
    return budgets + whole + (has_room & (place <= left))


def select(attention: Tensor, sizes: Sequence[int], budgets: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Most attended patches of each crop, crop by crop and by decreasing attention inside a crop.

    A crop that is kept whole stays in raster order.

    Args:
        attention: attention of CLS to each patch, [N].
        sizes: number of patches of each of the P crops.
        budgets: number of tokens of each crop, [P] int64, K together; one above the crop's size keeps the whole crop.
        keep: K.

    Returns:
        Patches [K] int64 and a mask of those that count, [K] bool: not all, where a budget exceeds its crop's size.
    """
    crops, starts = _crops_of_patches(sizes, attention.device)
    is_whole = budgets >= to_device(torch.tensor(sizes), attention.device)
    by_attention = torch.where(is_whole[..., crops], 0, attention).sort(dim=-1, descending=True, stable=True).indices
    by_crop = crops[by_attention].sort(dim=-1, stable=True).indices
    order = by_attention.gather(-1, by_crop)
    # The i-th patch of the order lies in the crop of patch i, since crops keep their sizes and places.
    rank = torch.arange(attention.shape[-1], device=attention.device) - starts
    is_kept = rank < budgets[..., crops]
    first = is_kept.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[..., :keep]
    return order.gather(-1, first), is_kept.gather(-1, first)


def _crops_of_patches(sizes: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Crop of each patch and the first patch of that crop, [N] int64 each."""
    crops = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    crops_on_device, starts_on_device = to_device(torch.from_numpy(np.stack([crops, starts])), device)
    return crops_on_device, starts_on_device


def prune(inputs: PrunerInput, params: HolovParameters) -> PrunedTokens:
    """Keeps K tokens in the order of `select` and drops all others. The full budget changes nothing."""
    vision = inputs.vision
    if inputs.keep >= vision.num_patches:
        return PrunedTokens.unpruned(vision)
    attention = at_least_float32(vision.outputs[SALIENCY_SECOND_LAST])
    crops = params.crops or default_crops(vision.num_patches, inputs.keep)
    sizes = crop_sizes(vision.num_patches, min(crops, vision.num_patches))
    budgets, rank = crop_quotas(attention, sizes, inputs.keep)
    if params.fidelity:
        kept, is_kept = select(attention, sizes, budgets, inputs.keep)
        return _zero_padded(PrunedTokens.of_patches(vision, kept, saliency_map=attention), is_kept)
    kept, _ = select(attention, sizes, redistribute(budgets, sizes, rank), inputs.keep)
    return PrunedTokens.of_patches(vision, kept, saliency_map=attention)


def _zero_padded(pruned: PrunedTokens, is_kept: Tensor) -> PrunedTokens:
    """The tokens of `is_kept` [K], the last others replaced by zero vectors."""
    clusters = pruned.cluster_of_patch
    is_patch_kept = clusters >= 0
    is_cluster_kept = is_kept.gather(-1, clusters.clamp_min(0))
    return PrunedTokens(
        features=torch.where(is_kept[..., None], pruned.features, 0),
        origins=torch.where(is_kept, pruned.origins, TokenOrigin.ZERO),
        cluster_of_patch=torch.where(is_patch_kept & is_cluster_kept, clusters, -1),
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
