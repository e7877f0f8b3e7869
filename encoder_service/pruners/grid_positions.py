"""Grid positions of kept tokens: every token gets the position of a patch, and no two tokens share one.

The wire format carries one distinct grid position for each token. A token that is not one patch (`TokenOrigin`), or
that repeats a patch, gets a free position, that of a patch that no token stands for. CLS takes the first free position,
all others take the last ones. The clusters of the patches do not change. At the position of a CLS token, a repeated
patch or a zero vector they refer to another token or to none, which distinguishes such a token from a patch. PruMerge's
sum is at the position of a patch that it sums.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from encoder_service.pruners.base import TokenOrigin

__all__ = ["grid_positions"]


def grid_positions(origins: npt.NDArray[np.int64], num_patches: int) -> npt.NDArray[np.int64]:
    """A distinct patch for each token, [K] int64 in 0..N-1.

    Args:
        origins: origins of the tokens of one tower input, [K], K <= N (see `PrunedTokens`).
        num_patches: N.
    """
    occupied: set[int] = set()
    unassigned: list[int] = []
    for token, patch in enumerate(origins.tolist()):
        if patch >= 0 and patch not in occupied:
            occupied.add(patch)
        else:
            unassigned.append(token)
    if not unassigned:
        return origins
    positions = origins.copy()
    free = [patch for patch in range(num_patches) if patch not in occupied]
    for token in unassigned:
        if origins[token] == TokenOrigin.CLS:
            positions[token] = free.pop(0)
    # In reverse, so that the tokens keep their order on the grid.
    for token in reversed(unassigned):
        if origins[token] != TokenOrigin.CLS:
            positions[token] = free.pop()
    return positions
