"""Rows as the wire takes them: each at a patch of the grid that no other row has, in the method's own order.

Some rows stand for no patch (`Row`), and a patch may come twice; the wire has a word for neither. Such a row is sent
with the place of a patch that no row stands for: CLS takes the first of these, a row that repeats a patch, sums many or
is zero one of the last. `merged_into` is as the method made it. At the place of CLS, a repeat or a row of zeros it
names another row, or none, which tells them from a patch; PruMerge's sum lies at a patch that it sums.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from encoder_service.pruners.base import PrunedTokens, TokenOrigin

__all__ = ["with_places"]


def with_places(pruned: PrunedTokens) -> PrunedTokens:
    """The same rows in the same order; all of `kept_index` different and in 0..N-1. At most N rows."""
    return dataclasses.replace(pruned, origins=_places(pruned.origins, len(pruned.cluster_of_patch)))


def _places(origins: Tensor, num_patches: int) -> Tensor:
    """A patch of its own for every row, [K]."""
    taken: set[int] = set()
    homeless: list[int] = []
    for row, index in enumerate(origins.tolist()):
        if index >= 0 and index not in taken:
            taken.add(index)
        else:
            homeless.append(row)
    if not homeless:
        return origins
    places = origins.clone()
    free = [index for index in range(num_patches) if index not in taken]
    for row in homeless:
        if origins[row] == TokenOrigin.CLS:
            places[row] = free.pop(0)
    # From the back, so that the order among them stays.
    for row in reversed(homeless):
        if origins[row] != TokenOrigin.CLS:
            places[row] = free.pop()
    return places
