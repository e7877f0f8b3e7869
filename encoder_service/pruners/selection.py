"""Selection of indices by score, with leading batch axes."""

from __future__ import annotations

import torch
from torch import Tensor

from fovea.modeling.numerics import top_k

__all__ = ["complement", "select_by_two_scores"]


def select_by_two_scores(first: Tensor, second: Tensor, k: int, first_share: float) -> tuple[Tensor, Tensor]:
    """Best floor(first_share k + 1/2) indices by one score, and the best of the others by another (DeSAP, eq. 5).

    Args:
        first: first score, [N].
        second: second score, [N], finite.
        k: number of indices.
        first_share: share of k that the first score selects, 0 to 1.

    Returns:
        Two disjoint sets of indices, each ascending; k indices together.
    """
    num_first = int(first_share * k + 0.5)
    by_first = top_k(first, num_first)
    return by_first, top_k(second.scatter(-1, by_first, -torch.inf), k - num_first)


def complement(chosen: Tensor, size: int) -> Tensor:
    """Indices of 0..size-1 that are not in `chosen` [k], ascending, [size - k]. All of `chosen` are different."""
    # Not bool, which some versions of torch do not sort on CUDA.
    is_chosen = torch.zeros((*chosen.shape[:-1], size), dtype=torch.uint8, device=chosen.device)
    is_chosen.scatter_(-1, chosen, 1)
    in_order = torch.sort(is_chosen, dim=-1, stable=True).indices
    return in_order[..., : size - chosen.shape[-1]]
