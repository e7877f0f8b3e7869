"""Grid positions of kept tokens: every token gets the position of a patch, and no two tokens share one.

The wire format carries one distinct grid position for each token. A token that is not one patch (`TokenOrigin`), or
that repeats a patch, gets a free position, that of a patch that no token stands for. CLS takes the first free position,
all others take the last ones. `cluster_of_patch` does not change. At the position of a CLS token, a repeated patch or a
zero vector it refers to another token or to none, which distinguishes such a token from a patch. PruMerge's sum is at
the position of a patch that it sums.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from encoder_service.pruners.base import PrunedTokens, TokenOrigin

__all__ = ["with_grid_positions"]


def with_grid_positions(pruned: PrunedTokens) -> PrunedTokens:
    """The same tokens in the same order, with `origins` that are all different and in 0..N-1.

    Args:
        pruned: tokens of one tower input, at most N.
    """
    return dataclasses.replace(pruned, origins=_grid_positions(pruned.origins, len(pruned.cluster_of_patch)))


def _grid_positions(origins: Tensor, num_patches: int) -> Tensor:
    """A distinct patch for each token, [K] int64."""
    occupied: set[int] = set()
    unassigned: list[int] = []
    for token, patch in enumerate(origins.tolist()):
        if patch >= 0 and patch not in occupied:
            occupied.add(patch)
        else:
            unassigned.append(token)
    if not unassigned:
        return origins
    positions = origins.clone()
    free = [patch for patch in range(num_patches) if patch not in occupied]
    for token in unassigned:
        if origins[token] == TokenOrigin.CLS:
            positions[token] = free.pop(0)
    # In reverse, so that the tokens keep their order on the grid.
    for token in reversed(unassigned):
        if origins[token] != TokenOrigin.CLS:
            positions[token] = free.pop()
    return positions
