"""Rows as the language model's service accepts them today: at strictly ascending patches of the grid.

Methods emit in their own order, and some rows stand for no patch (`Row`). The wire has no word for either. So every
row gets a patch of its own and rows are sorted by it: a row keeps its patch; CLS takes the first patch that no row
stands for; a row that repeats a patch, sums many or is zero takes one of the last such patches. No row is lost, none
is changed, and what a method puts first or last stays near that end. Who needs to know tells such a row from a patch
by `merged_into`: at its place it names another row, or none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from encoder_service.pruners.base import PrunedTokens, Row

__all__ = ["in_raster_order"]


def in_raster_order(pruned: PrunedTokens) -> PrunedTokens:
    """The same rows with `kept_index` strictly ascending in 0..N-1. At most N rows."""
    places = _places(pruned.kept_index, len(pruned.merged_into))
    order = places.argsort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    owner = pruned.merged_into
    return PrunedTokens(
        features=pruned.features[order],
        kept_index=places[order],
        merged_into=torch.where(owner < 0, owner, rank[owner.clamp_min(0)]),
        task_map=pruned.task_map,
        saliency_map=pruned.saliency_map,
    )


def _places(kept_index: Tensor, num_patches: int) -> Tensor:
    """A patch of its own for every row, [K]."""
    taken: dict[int, int] = {}
    homeless: list[int] = []
    for row, index in enumerate(kept_index.tolist()):
        if index >= 0 and index not in taken:
            taken[index] = row
        else:
            homeless.append(row)
    if not homeless:
        return kept_index
    places = kept_index.clone()
    free = [index for index in range(num_patches) if index not in taken]
    for row in homeless:
        if kept_index[row] == Row.CLS:
            places[row] = free.pop(0)
    # From the back, so that the order among them stays.
    for row in reversed(homeless):
        if kept_index[row] != Row.CLS:
            places[row] = free.pop()
    return places
