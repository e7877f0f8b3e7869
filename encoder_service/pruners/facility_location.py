"""Facility location: the set of patches that best represents all patches."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["greedy_facility_location"]


def greedy_facility_location(
    similarity: Tensor, weights: Tensor, k: int, *, target_value: float | None = None
) -> Tensor:
    """Greedy maximisation of sum_i w_i max_{c in S} s_ic over sets S of k patches.

    Each step adds the patch with the largest gain. The objective is submodular, so the greedy set reaches at least 63 %
    of the optimum (Nemhauser, Wolsey & Fisher 1978). A patch that resembles a chosen one has a small gain, so
    near-duplicates are chosen late.

    Args:
        similarity: similarity s, [N, N], not negative; column c is how well patch c represents each patch.
        weights: weights w of the patches, [N], not negative.
        k: number of patches to choose, 1 <= k <= N.
        target_value: value of the objective at which to stop; None to choose all k. The search then also stops where no
            patch has a gain.

    Returns:
        [k] int64, in the order of choice, all different; fewer, but at least one, where the search stops early. Of
        equal gains the smallest index is taken.
    """
    reached = 0.0
    covered = torch.zeros_like(weights)
    is_chosen = torch.zeros_like(weights, dtype=torch.bool)
    chosen: list[Tensor] = []
    for _ in range(k):
        # Objective with each candidate added. The covered part is the same for all and does not affect the choice.
        value = weights @ torch.maximum(similarity, covered[:, None])
        best = value.masked_fill(is_chosen, -torch.inf).argmax()  # the first of equal values
        if target_value is not None:
            before, reached = reached, float(value[best])
            if chosen and reached <= before:
                break
        chosen.append(best)
        is_chosen[best] = True
        covered = torch.maximum(covered, similarity[:, best])
        if target_value is not None and reached >= target_value:
            break
    return torch.stack(chosen)
