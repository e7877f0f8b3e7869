"""Facility location: the patches that together stand best for all others."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["greedy_facilities"]


def greedy_facilities(similarity: Tensor, weights: Tensor, k: int, *, enough: float | None = None) -> Tensor:
    """Maximises sum_i w_i max_{c in S} s_ic over sets S of k patches, one patch at a time.

    Each step takes the patch that adds most; the sum is submodular, so the greedy set reaches at least 63 % of the best
    one's (Nemhauser, Wolsey & Fisher 1978). A patch like one that is already there adds little: near-duplicates wait.

    Args:
        similarity: s, [N, N], not negative; column c says how well patch c stands for each other.
        weights: w, [N], not negative.
        k: 1 <= k <= N.
        enough: Stop with the patch that brings the sum to this value, or where the next would add nothing.

    Returns:
        [k], int64, in the order in which they were taken, all different; fewer, though at least one, where it stopped
        early. Of equal gains the smallest index is taken.
    """
    reached = 0.0
    covered = torch.zeros_like(weights)
    taken = torch.zeros_like(weights, dtype=torch.bool)
    chosen: list[Tensor] = []
    for _ in range(k):
        # The sum with each candidate added; what is covered already is the same in all and decides nothing.
        value = weights @ torch.maximum(similarity, covered[:, None])
        best = value.masked_fill(taken, -torch.inf).argmax()  # the first of equal ones
        if enough is not None:
            before, reached = reached, float(value[best])
            if chosen and reached <= before:
                break
        chosen.append(best)
        taken[best] = True
        covered = torch.maximum(covered, similarity[:, best])
        if enough is not None and reached >= enough:
            break
    return torch.stack(chosen)
