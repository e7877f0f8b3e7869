"""Greedy determinant: the set of patches whose features span the largest volume.

All functions take leading batch axes. Each step of the search is a fixed number of operations on the whole batch, and
the matrix of all pairs of patches is never in memory.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fovea.modeling.numerics import take_vectors

__all__ = ["greedy_determinant"]

_ROUNDING_STEPS: Final = 128
"""Squared sine, in rounding errors of the dtype, up to which a patch counts as lying in the span of the chosen ones.

In float32 that is 1.5e-5. Smaller values are rounding errors of the search itself, and would choose at random.
"""


def greedy_determinant(features: Tensor, quality: Tensor, k: int) -> Tensor:
    """Greedy maximisation of det(K_S), K_ij = q_i cos(x_i, x_j) q_j, over sets S of k patches.

    That is the mode of a determinantal point process with quality q and diversity features x (Kulesza & Taskar 2012,
    sec. 3.1). Each step adds the patch whose vector of length q is farthest from the span of those chosen. The rows of
    an incremental Cholesky factor of the cosines give the distances, so k steps take O(k N (k + D)) operations (Chen,
    Zhang & Zhou, NeurIPS 2018). Once all others lie in the span, no set of more patches has a volume. The patches of
    the highest quality follow then.

    Args:
        features: features x of the patches, [N, D], at least float32, of any length.
        quality: quality q of the patches, [N], above 0.
        k: number of patches to choose, 1 <= k <= N.

    Returns:
        [k] int64, in the order of choice, all different. Of equal gains the smallest index is taken.
    """
    num_patches = features.shape[-2]
    unit = normalize(features.reshape(-1, *features.shape[-2:]), dim=-1)
    squared_quality = quality.to(unit.dtype).square().view(-1, num_patches)
    tolerance = _ROUNDING_STEPS * torch.finfo(unit.dtype).eps
    # Angles to the span of the chosen patches, at first of none: exactly right ones, so that equal qualities are ties.
    squared_sines = unit.any(dim=-1).to(unit.dtype)
    in_span = -1 / squared_quality  # negative, and the better come first
    unit_columns, factor = unit.mT, unit.new_empty(len(unit), k, num_patches)
    chosen = []
    for step in range(k):
        gains = torch.where(squared_sines > tolerance, squared_quality * squared_sines, in_span)
        best = gains.argmax(dim=-1, keepdim=True)  # the first of equal values
        chosen.append(best)
        cosines, rows = torch.bmm(take_vectors(unit, best), unit_columns), factor[:, :step]
        row = torch.baddbmm(cosines, take_vectors(rows.mT, best), rows, alpha=-1).squeeze(1)
        row *= squared_sines.gather(-1, best).clamp_min(tolerance).rsqrt()
        factor[:, step] = row
        squared_sines.addcmul_(row, row, value=-1).scatter_(-1, best, -torch.inf)
        in_span.scatter_(-1, best, -torch.inf)
    return torch.cat(chosen, dim=-1).view(*quality.shape[:-1], k)
