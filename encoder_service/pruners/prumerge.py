"""LLaVA-PruMerge (ICCV 2025): patches with the most CLS attention, merged with neighbours, and one sum of all others.

Attention is that of the last layer, its heads taken as one head of width C. Features are X[V-1]. Similarity is that of
the last layer's keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TokenOrigin
from encoder_service.pruners.image_by_image import image_by_image
from encoder_service.pruners.selection import complement
from encoder_service.pruners.tower_outputs import KEYS, SALIENCY_ONE_HEAD
from fovea.modeling.numerics import at_least_float32, take_vectors
from fovea.parameters import flag

__all__ = ["PRUNER", "REQUIREMENTS", "dropped_of_released", "merge_neighbours", "most_attended", "num_outliers"]

REQUIREMENTS: Final = FeatureRequirements(outputs=frozenset({SALIENCY_ONE_HEAD, KEYS}))

_NUM_NEIGHBOURS: Final = 32


@dataclass(frozen=True, slots=True)
class PruMergeParameters:
    adaptive: bool = flag(
        False,
        description="true or false; true ignores the budget and keeps the patches whose attention is an outlier",
    )


def num_outliers(attention: Tensor) -> int:
    """Number of patches whose attention exceeds Q3 + 1.5 (Q3 - Q1), with interpolated quartiles; may be 0."""
    attention = at_least_float32(attention)
    q1, q3 = torch.quantile(attention, attention.new_tensor([0.25, 0.75])).unbind()
    return int((attention > q3 + 1.5 * (q3 - q1)).sum())


def most_attended(attention: Tensor, k: int) -> Tensor:
    """The k patches with the most CLS attention, by decreasing attention; of equal ones the smaller index first."""
    return torch.sort(attention, dim=-1, descending=True, stable=True).indices[..., :k]


def dropped_of_released(kept: Tensor, num_patches: int) -> Tensor:
    """Patches that are not in `kept` [m], ascending; for each repeat in `kept` the first of them is left out."""
    is_dropped = torch.ones(num_patches, dtype=torch.bool, device=kept.device)
    is_dropped[kept] = False
    dropped = is_dropped.nonzero().squeeze(1)
    return dropped[len(kept) + len(dropped) - num_patches :]


def merge_neighbours(
    hidden: Tensor, attention: Tensor, keys: Tensor, kept: Tensor, dropped: Tensor | None = None
) -> PrunedTokens:
    """Kept patches, each with its neighbours added, then one sum of all dropped patches.

    x_i = X_i + sum_j a_j X_j over the 32 other patches, kept or dropped, whose keys have the highest cosine with those
    of patch i. The last token is the sum of a_j X_j over the dropped patches. As the method defines it, the weights are
    not normalised.

    Args:
        hidden: features X of the patches, [N, C].
        attention: attention a of CLS to each patch, [N].
        keys: keys of the patches, [N, C].
        kept: kept patches, [m] int64, 0 <= m <= N, in any order. A patch may occur twice and is then its own neighbour.
        dropped: dropped patches, [N - m] int64, ascending; None for all that are not in `kept`, where none occurs
            twice.

    Returns:
        m + 1 tokens in the order of `kept`, or m if no patch is dropped. Dropped patches belong to the cluster of the
        last token. The reading group keeps the tokens of a tile together.
    """
    hidden, weights = at_least_float32(hidden), at_least_float32(attention)
    if dropped is None:
        dropped = complement(kept, hidden.shape[-2])
    num_kept, batch = kept.shape[-1], kept.shape[:-1]
    cluster_of_patch = kept.new_full(weights.shape, -1).scatter_(-1, dropped, num_kept)
    # amin, since a repeated patch belongs to its first token.
    tokens = torch.arange(num_kept, device=kept.device).expand(*batch, num_kept)
    cluster_of_patch.scatter_reduce_(-1, kept, tokens, "amin", include_self=False)

    pool = torch.cat([kept, dropped], dim=-1).sort(dim=-1).values  # N patches, repeats side by side
    neighbours = _neighbour_weights(weights, keys, kept, pool) @ take_vectors(hidden, pool)
    features, origins = take_vectors(hidden, kept) + neighbours, kept
    if dropped.shape[-1]:
        dropped_sum = weights.gather(-1, dropped)[..., None, :] @ take_vectors(hidden, dropped)
        features = torch.cat([features, dropped_sum], dim=-2)
        origins = torch.cat([kept, kept.new_full((*batch, 1), TokenOrigin.SUM)], dim=-1)
    return PrunedTokens(
        features=features,
        origins=origins,
        cluster_of_patch=cluster_of_patch,
        saliency_map=weights,
        reading_group=torch.ones_like(origins),
    )


def _neighbour_weights(weights: Tensor, keys: Tensor, kept: Tensor, pool: Tensor) -> Tensor:
    """Weight of each patch of `pool` in each kept token, [m, N]; 0 for all but its neighbours."""
    unit = normalize(at_least_float32(keys), dim=-1)
    similarity = take_vectors(unit, kept) @ take_vectors(unit, pool).mT
    # Excludes the patch itself but not its repeat.
    similarity = similarity.scatter_(-1, torch.searchsorted(pool, kept.contiguous())[..., None], -torch.inf)
    count = min(_NUM_NEIGHBOURS, pool.shape[-1] - 1)
    nearest = torch.sort(similarity, dim=-1, descending=True, stable=True).indices[..., :count]
    # A matrix for a product, since gathering the neighbours' features would take 32 times the memory.
    of_pool = weights.gather(-1, pool)[..., None, :].expand(similarity.shape)
    return torch.zeros_like(of_pool).scatter_(-1, nearest, of_pool.gather(-1, nearest))


def prune(inputs: PrunerInput, params: PruMergeParameters) -> PrunedTokens:
    """Keeps K - 1 patches and the sum of all others; with `adaptive` the outliers, at least one patch, and the sum.

    The full budget changes nothing. `adaptive` keeps another number in each image, and works image by image.
    """
    if params.adaptive:
        return image_by_image(_prune_adaptively, inputs)
    vision = inputs.vision
    if inputs.keep >= vision.num_patches:
        return PrunedTokens.unpruned(vision, reading_group=1)
    attention = vision.outputs[SALIENCY_ONE_HEAD]
    return merge_neighbours(vision.hidden, attention, vision.outputs[KEYS], most_attended(attention, inputs.keep - 1))


def _prune_adaptively(inputs: PrunerInput) -> PrunedTokens:
    vision = inputs.vision
    attention = vision.outputs[SALIENCY_ONE_HEAD]
    kept = most_attended(attention, max(num_outliers(attention), 1))
    return merge_neighbours(vision.hidden, attention, vision.outputs[KEYS], kept)


PRUNER = Pruner(
    name="prumerge",
    summary="Keeps the tokens with the most CLS attention and adds similar tokens to each. Sums all others into one.",
    reference="LLaVA-PruMerge, ICCV 2025",
    parameters=PruMergeParameters,
    requirements=lambda params: REQUIREMENTS,
    prune=prune,
)
