"""Choosing indices by score."""

from __future__ import annotations

import torch
from torch import Tensor

from fovea.modeling.numerics import top_k

__all__ = ["select_by_two"]


def select_by_two(first: Tensor, second: Tensor, k: int, first_share: float) -> tuple[Tensor, Tensor]:
    """k indices: the best floor(first_share k + 1/2) by `first` [N], the rest by `second` [N] among those left.

    Returns:
        The two sets, each ascending; they share no index (DeSAP, eq. 5).
    """
    num_first = int(first_share * k + 0.5)
    by_first = top_k(first, num_first)
    rest = torch.ones_like(second, dtype=torch.bool)
    rest[by_first] = False
    candidates = rest.nonzero().squeeze(1)
    by_second = candidates[top_k(second[candidates], k - num_first)]
    return by_first, by_second
