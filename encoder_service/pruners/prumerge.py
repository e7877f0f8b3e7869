"""LLaVA-PruMerge (ICCV 2025): patches that CLS attends to, their neighbours folded in, and one row for the rest.

Attention is that of the last layer with all heads taken as one of width C; features are X[V-1], similarity is that of
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

__all__ = ["NEEDS", "PRUNER", "by_attention", "fold", "num_outliers"]

NEEDS: Final = FeatureRequirements(outputs=frozenset({SALIENCY_ONE_HEAD, KEYS}))

_NUM_NEIGHBOURS: Final = 32


@dataclass(frozen=True, slots=True)
class PruMergeParameters:
    adaptive: bool = flag(
        False, description="true or false; true lets the picture decide how many tokens to keep and ignores the budget"
    )


def num_outliers(attention: Tensor) -> int:
    """How many patches' attention lies above the upper fence Q3 + 1.5 (Q3 - Q1), quartiles interpolated; may be 0."""
    attention = at_least_float32(attention)
    q1, q3 = torch.quantile(attention, attention.new_tensor([0.25, 0.75])).unbind()
    return int((attention > q3 + 1.5 * (q3 - q1)).sum())


def by_attention(attention: Tensor, k: int) -> Tensor:
    """The k patches that CLS attends to most, the most attended first; equals go to the smaller index."""
    return torch.sort(attention, descending=True, stable=True).indices[:k]


def fold(hidden: Tensor, attention: Tensor, keys: Tensor, origins: Tensor) -> PrunedTokens:
    """Kept patches with their neighbours folded in, then one row for all dropped ones.

    x_i = X_i + sum_j a_j X_j over the 32 others, kept or dropped, whose keys are most similar to those of i by cosine.
    The last row is the sum of a_j X_j over the dropped. Weights are not normalised: that is how the method is defined.

    Args:
        hidden: X, [N, C].
        attention: a, [N].
        keys: [N, C].
        kept_index: [m], 0 <= m <= N, in any order. A patch may stand there twice: its twin is then among the others,
            and for each repeat the first dropped patch in raster order takes no part in anything.

    Returns:
        m + 1 rows in the order of `kept_index` (m where nothing is dropped), which tiles do not mix. Dropped patches
        count as merged into the last row.
    """
    hidden, weights = at_least_float32(hidden), at_least_float32(attention)
    is_dropped = torch.ones_like(weights, dtype=torch.bool)
    is_dropped[origins] = False
    dropped = is_dropped.nonzero().squeeze(1)
    dropped = dropped[len(origins) + len(dropped) - len(hidden) :]  # one fewer for each repeat

    cluster_of_patch = torch.full_like(is_dropped, -1, dtype=torch.int64)
    cluster_of_patch[dropped] = len(origins)
    # amin: a repeated patch belongs to its first row.
    rows = torch.arange(len(origins), device=cluster_of_patch.device)
    cluster_of_patch.scatter_reduce_(0, origins, rows, "amin", include_self=False)

    pool = torch.cat([origins, dropped]).sort().values  # as many as there are patches, twins side by side
    folded = _neighbour_weights(weights, keys, origins, pool) @ hidden[pool]
    rest = [(weights[dropped] @ hidden[dropped])[None]] if len(dropped) else []
    index = torch.cat([origins, origins.new_full((len(rest),), TokenOrigin.SUM)])
    return PrunedTokens(
        features=torch.cat([hidden[origins] + folded, *rest]),
        origins=index,
        cluster_of_patch=cluster_of_patch,
        saliency_map=weights,
        reading_group=torch.ones_like(index),
    )


def _neighbour_weights(weights: Tensor, keys: Tensor, origins: Tensor, pool: Tensor) -> Tensor:
    """[m, N]: the weight with which each of `pool` enters each kept row; 0 for all but its nearest."""
    unit = normalize(at_least_float32(keys), dim=-1)
    similarity = unit[origins] @ unit[pool].T
    similarity.scatter_(1, torch.searchsorted(pool, origins)[:, None], -torch.inf)  # not itself, but its twin
    count = min(_NUM_NEIGHBOURS, len(pool) - 1)
    nearest = torch.sort(similarity, dim=1, descending=True, stable=True).indices[:, :count]
    # As a matrix for a product: gathering the neighbours' features takes 32 times the memory.
    entering = torch.zeros_like(similarity, dtype=weights.dtype)
    return entering.scatter_(1, nearest, weights[pool][nearest])


def prune(job: PrunerInput, params: PruMergeParameters) -> PrunedTokens:
    """K - 1 patches and the row for the rest; adaptive: the outliers, 1 at least, and it.

    The full budget changes nothing.
    """
    vision = job.vision
    if job.keep >= vision.num_patches and not params.adaptive:
        return PrunedTokens.all_of(vision, reading_group=1)
    attention = vision.outputs[SALIENCY_ONE_HEAD]
    num_kept = max(num_outliers(attention), 1) if params.adaptive else job.keep - 1
    return fold(vision.hidden, attention, vision.outputs[KEYS], by_attention(attention, num_kept))


PRUNER = Pruner(
    name="prumerge",
    summary="Keeps the tokens that CLS attends to most, folds similar ones into each, and sums the rest in one more.",
    reference="LLaVA-PruMerge, ICCV 2025",
    parameters=PruMergeParameters,
    requirements=lambda params: NEEDS,
    prune=prune,
)
