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
from encoder_service.pruners.tower_outputs import KEYS, SALIENCY_ONE_HEAD
from fovea.modeling.numerics import at_least_float32
from fovea.parameters import flag

__all__ = ["PRUNER", "REQUIREMENTS", "merge_neighbours", "most_attended", "num_outliers"]

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
    return torch.sort(attention, descending=True, stable=True).indices[:k]


def merge_neighbours(hidden: Tensor, attention: Tensor, keys: Tensor, kept: Tensor) -> PrunedTokens:
    """Kept patches, each with its neighbours added, then one sum of all dropped patches.

    x_i = X_i + sum_j a_j X_j over the 32 other patches, kept or dropped, whose keys have the highest cosine with those
    of patch i. The last token is the sum of a_j X_j over the dropped patches. As the method defines it, the weights are
    not normalised.

    Args:
        hidden: features X of the patches, [N, C].
        attention: attention a of CLS to each patch, [N].
        keys: keys of the patches, [N, C].
        kept: kept patches, [m] int64, 0 <= m <= N, in any order. A patch may occur twice and is then its own neighbour;
            for each repeat the first dropped patch in raster order is ignored.

    Returns:
        m + 1 tokens in the order of `kept`, or m if no patch is dropped. Dropped patches belong to the cluster of the
        last token. The reading group keeps the tokens of a tile together.
    """
    hidden, weights = at_least_float32(hidden), at_least_float32(attention)
    is_dropped = torch.ones_like(weights, dtype=torch.bool)
    is_dropped[kept] = False
    dropped = is_dropped.nonzero().squeeze(1)
    dropped = dropped[len(kept) + len(dropped) - len(hidden) :]  # one fewer for each repeat

    cluster_of_patch = torch.full_like(is_dropped, -1, dtype=torch.int64)
    cluster_of_patch[dropped] = len(kept)
    # amin, since a repeated patch belongs to its first token.
    tokens = torch.arange(len(kept), device=cluster_of_patch.device)
    cluster_of_patch.scatter_reduce_(0, kept, tokens, "amin", include_self=False)

    pool = torch.cat([kept, dropped]).sort().values  # N patches, repeats side by side
    neighbours = _neighbour_weights(weights, keys, kept, pool) @ hidden[pool]
    dropped_sum = [(weights[dropped] @ hidden[dropped])[None]] if len(dropped) else []
    origins = torch.cat([kept, kept.new_full((len(dropped_sum),), TokenOrigin.SUM)])
    return PrunedTokens(
        features=torch.cat([hidden[kept] + neighbours, *dropped_sum]),
        origins=origins,
        cluster_of_patch=cluster_of_patch,
        saliency_map=weights,
        reading_group=torch.ones_like(origins),
    )


def _neighbour_weights(weights: Tensor, keys: Tensor, kept: Tensor, pool: Tensor) -> Tensor:
    """Weight of each patch of `pool` in each kept token, [m, N]; 0 for all but its neighbours."""
    unit = normalize(at_least_float32(keys), dim=-1)
    similarity = unit[kept] @ unit[pool].T
    # Excludes the patch itself but not its repeat.
    similarity.scatter_(1, torch.searchsorted(pool, kept)[:, None], -torch.inf)
    count = min(_NUM_NEIGHBOURS, len(pool) - 1)
    nearest = torch.sort(similarity, dim=1, descending=True, stable=True).indices[:, :count]
    # A matrix for a product, since gathering the neighbours' features would take 32 times the memory.
    matrix = torch.zeros_like(similarity, dtype=weights.dtype)
    return matrix.scatter_(1, nearest, weights[pool][nearest])


def prune(inputs: PrunerInput, params: PruMergeParameters) -> PrunedTokens:
    """Keeps K - 1 patches and the sum of all others; with `adaptive` the outliers, at least one patch, and the sum.

    The full budget changes nothing.
    """
    vision = inputs.vision
    if inputs.keep >= vision.num_patches and not params.adaptive:
        return PrunedTokens.unpruned(vision, reading_group=1)
    attention = vision.outputs[SALIENCY_ONE_HEAD]
    num_kept = max(num_outliers(attention), 1) if params.adaptive else inputs.keep - 1
    return merge_neighbours(vision.hidden, attention, vision.outputs[KEYS], most_attended(attention, num_kept))


PRUNER = Pruner(
    name="prumerge",
    summary="Keeps the tokens with the most CLS attention and adds similar tokens to each. Sums all others into one.",
    reference="LLaVA-PruMerge, ICCV 2025",
    parameters=PruMergeParameters,
    requirements=lambda params: REQUIREMENTS,
    prune=prune,
)
