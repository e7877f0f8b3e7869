"""AdaptPrune: attention, position and similarity together; a kept token suppresses those that are near and alike.

As FastV it prunes once after two layers, but picks greedily (non-maximum suppression), so that the budget does not go
to neighbours that say the same. A Gaussian around the middle of the picture counters the bias of attention towards
its bottom. Similarity is that of keys which the authors' code takes from the bare hidden states, without the layer's
norm; the published results are made that way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fovea.modeling.numerics import at_least_float32
from fovea.parameters import number
from llm_service.pruners.base import Choice, LlmPruner, Moment, VisualLayout
from llm_service.pruners.early import EarlyParameters, schedule
from llm_service.pruners.selection import last_token_attention

__all__ = ["PRUNER", "AdaptPruneParameters", "center_weights", "prune", "suppress_and_pick"]


@dataclass(frozen=True, slots=True)
class AdaptPruneParameters(EarlyParameters):
    radius: float = number(
        5.0, minimum=0, maximum=1000, description="0 to 1000 patches; farther tokens are never suppressed"
    )
    sigma_distance: float = number(
        1.5, minimum=0.01, maximum=1000, description="0.01 to 1000 patches; how fast suppression fades with distance"
    )
    sigma_similarity: float = number(
        0.05, minimum=0.001, maximum=10, description="0.001 to 10; how fast it fades as cosines fall below 1"
    )
    center_sigma: float = number(
        0.5,
        minimum=0.01,
        maximum=1000,
        description="0.01 to 1000 sides of the grid; width of the Gaussian around the middle of the picture",
    )


def center_weights(layout: VisualLayout, sigma: float) -> Tensor:
    """[N] in (0, 1], 1 in the middle of each picture: a Gaussian of `sigma` grid sides along each axis."""
    weights = torch.empty(len(layout), dtype=torch.float64, device=layout.row.device)
    for picture, (rows, columns) in enumerate(layout.grids):
        here = layout.picture == picture
        y, x = (
            torch.linspace(-side / 2, side / 2, side, dtype=torch.float64, device=layout.row.device)
            for side in (rows, columns)
        )
        vertical, horizontal = (-0.5 * (u / (sigma * len(u))) ** 2 for u in (y, x))
        # Divided by the largest weight in the exponent: a narrow Gaussian may be 0 at every patch.
        vertical, horizontal = ((exponent - exponent.max()).exp() for exponent in (vertical, horizontal))
        weights[here] = vertical[layout.row[here]] * horizontal[layout.column[here]]
    return weights


def suppress_and_pick(
    scores: Tensor, keys: Tensor, layout: VisualLayout, keep: int, params: AdaptPruneParameters
) -> Tensor:
    """Picks the best token `keep` times, each pick damping the scores of the tokens that are near and alike.

    Args:
        scores: [N], not negative.
        keys: [N, C], what similarity is taken on.
        layout: Places in the pictures; tokens of different pictures never suppress each other.
        keep: At most N.
        params: Widths and radius.

    Returns:
        [keep] int64, in the order of picking; of equal scores the smaller index goes first.
    """
    keys = normalize(keys, dim=-1)
    # Of numbers beyond the dtype any choice will do: the row ends with an error when its logits are looked at.
    scores = scores.nan_to_num()
    taken = torch.zeros_like(scores, dtype=torch.bool)
    row, column = layout.row.to(scores.dtype), layout.column.to(scores.dtype)
    index = torch.arange(len(scores), device=scores.device)
    picks = []
    for _ in range(keep):
        # `argmax` promises nothing about ties.
        rest = scores.masked_fill(taken, -torch.inf)
        pick = torch.where(rest == rest.max(), index, len(rest)).min()
        picks.append(pick)
        distance = (row - row[pick]) ** 2 + (column - column[pick]) ** 2
        nearness = (-distance / (2 * params.sigma_distance**2)).exp()
        likeness = (-((1 - keys @ keys[pick]) ** 2) / (2 * params.sigma_similarity**2)).exp()
        within = (distance <= params.radius**2) & (layout.picture == layout.picture[pick])
        scores = torch.where(within, scores * (1 - nearness * likeness).nan_to_num(), scores)
        taken[pick] = True
    return torch.stack(picks)


def prune(moment: Moment, keep: int, params: AdaptPruneParameters) -> Choice:
    """Attention of the last prompt token in the layer before, weighted to the middle, thinned by suppression."""
    layout, keep = moment.layout, min(keep, len(moment.visual))
    attention = last_token_attention(moment.previous, moment)
    scores = attention * center_weights(layout, params.center_sigma)[moment.origin].to(attention.dtype)
    keys = at_least_float32(moment.upcoming.raw_keys(moment.visual))
    picks = suppress_and_pick(scores, keys, layout, keep, params)
    return Choice(picks.sort().values, doubles_cache=params.fidelity)


PRUNER = LlmPruner(
    name="adaptprune",
    summary="Picks greedily by attention of the last prompt token; a pick damps the tokens that are near and alike.",
    reference="AdaptPrune",
    reads_text=True,
    compact=False,
    parameters=AdaptPruneParameters,
    schedule=schedule,
    prune=prune,
)
