"""AdaptPrune: greedy selection by attention, position and similarity (non-maximum suppression).

Like FastV it prunes once, after two layers, but each picked token lowers the scores of near and similar tokens, so that
the budget is not spent on redundant neighbours. A Gaussian around the center of the image counters the bias of
attention towards its bottom. Similarity is that of keys which the authors' code computes from the hidden states without
the layer's norm; the published results depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fovea.modeling.numerics import at_least_float32
from fovea.parameters import number
from llm_service.pruners.attention import last_token_attention
from llm_service.pruners.base import LlmPruningMethod, PruningContext, PruningResult, VisualLayout
from llm_service.pruners.early_layer import EarlyLayerParameters, schedule

__all__ = ["PRUNER", "AdaptPruneParameters", "center_weights", "prune", "soft_nms"]


@dataclass(frozen=True, slots=True)
class AdaptPruneParameters(EarlyLayerParameters):
    """Parameters of AdaptPrune."""

    radius: float = number(
        5.0, minimum=0, maximum=1000, description="0 to 1000 patches; tokens farther away are not suppressed"
    )
    sigma_distance: float = number(
        1.5, minimum=0.01, maximum=1000, description="0.01 to 1000 patches; how fast suppression fades with distance"
    )
    sigma_similarity: float = number(
        0.05,
        minimum=0.001,
        maximum=10,
        description="0.001 to 10; how fast suppression fades as cosine similarity falls below 1",
    )
    center_sigma: float = number(
        0.5,
        minimum=0.01,
        maximum=1000,
        description="0.01 to 1000 sides of the grid; width of the Gaussian around the center of the image",
    )


def center_weights(layout: VisualLayout, sigma: float) -> Tensor:
    """[N] weights in (0, 1], 1 at the center of each image: a Gaussian of `sigma` grid sides along each axis."""
    weights = torch.empty(len(layout), dtype=torch.float64, device=layout.row.device)
    for image, (rows, columns) in enumerate(layout.grids):
        in_image = layout.image == image
        y, x = (
            torch.linspace(-side / 2, side / 2, side, dtype=torch.float64, device=layout.row.device)
            for side in (rows, columns)
        )
        vertical, horizontal = (-0.5 * (u / (sigma * len(u))) ** 2 for u in (y, x))
        # Normalized by the largest weight in the exponent: a narrow Gaussian may be 0 at every patch.
        vertical, horizontal = ((exponent - exponent.max()).exp() for exponent in (vertical, horizontal))
        weights[in_image] = vertical[layout.row[in_image]] * horizontal[layout.column[in_image]]
    return weights


def soft_nms(scores: Tensor, keys: Tensor, layout: VisualLayout, keep: int, params: AdaptPruneParameters) -> Tensor:
    """Picks the best token `keep` times; each pick lowers the scores of near and similar tokens of the same image.

    Args:
        scores: [N] scores, not negative.
        keys: [N, C] vectors for cosine similarity.
        layout: Grid coordinates of the tokens.
        keep: Number of picks, at most N.
        params: Widths and radius of the suppression.

    Returns:
        [keep] int64 indices in the order of picking; ties go to the smaller index.
    """
    keys = normalize(keys, dim=-1)
    # Any choice is fine for numbers beyond the dtype: their sequence fails when its logits are checked.
    scores = scores.nan_to_num()
    taken = torch.zeros_like(scores, dtype=torch.bool)
    row, column = layout.row.to(scores.dtype), layout.column.to(scores.dtype)
    index = torch.arange(len(scores), device=scores.device)
    picks = []
    for _ in range(keep):
        # `argmax` does not specify which of equal scores it returns.
        candidates = scores.masked_fill(taken, -torch.inf)
        pick = torch.where(candidates == candidates.max(), index, len(candidates)).min()
        picks.append(pick)
        squared_distance = (row - row[pick]) ** 2 + (column - column[pick]) ** 2
        nearness = (-squared_distance / (2 * params.sigma_distance**2)).exp()
        similarity = (-((1 - keys @ keys[pick]) ** 2) / (2 * params.sigma_similarity**2)).exp()
        suppressed = (squared_distance <= params.radius**2) & (layout.image == layout.image[pick])
        scores = torch.where(suppressed, scores * (1 - nearness * similarity).nan_to_num(), scores)
        taken[pick] = True
    return torch.stack(picks)


def prune(context: PruningContext, keep: int, params: AdaptPruneParameters) -> PruningResult:
    """Keeps tokens by attention of the last prompt token in the previous layer, center-weighted, with soft NMS."""
    layout, keep = context.layout, min(keep, len(context.visual_indices))
    attention = last_token_attention(context.previous, context)
    scores = attention * center_weights(layout, params.center_sigma)[context.original_indices].to(attention.dtype)
    keys = at_least_float32(context.upcoming.raw_keys(context.visual_indices))
    picks = soft_nms(scores, keys, layout, keep, params)
    return PruningResult(picks.sort().values, duplicates_cache=params.fidelity)


PRUNER = LlmPruningMethod(
    name="adaptprune",
    summary="Picks greedily by attention of the last prompt token; each pick suppresses near and similar tokens.",
    reference="AdaptPrune",
    reads_text=True,
    compact=False,
    parameters=AdaptPruneParameters,
    schedule=schedule,
    prune=prune,
)
