"""Selection of indices by score."""

from __future__ import annotations

import torch
from torch import Tensor

from fovea.modeling.numerics import top_k

__all__ = ["select_by_two_scores"]


def select_by_two_scores(first: Tensor, second: Tensor, k: int, first_share: float) -> tuple[Tensor, Tensor]:
    """Best floor(first_share k + 1/2) indices by one score, and the best of the others by another (DeSAP, eq. 5).

    Args:
        first: first score, [N].
        second: second score, [N].
        k: number of indices.
        first_share: share of k that the first score selects, 0 to 1.

    Returns:
        Two disjoint sets of indices, each ascending; k indices together.
    """
    num_first = int(first_share * k + 0.5)
    by_first = top_k(first, num_first)
    rest = torch.ones_like(second, dtype=torch.bool)
    rest[by_first] = False
    candidates = rest.nonzero().squeeze(1)
    by_second = candidates[top_k(second[candidates], k - num_first)]
    return by_first, by_second
