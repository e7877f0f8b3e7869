"""Facility location: the set of patches that best represents all patches.

All functions take leading batch axes. Each step of the search is a fixed number of operations on the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

__all__ = ["counts_to_reach", "greedy_facility_location", "lazy_greedy_facility_location", "values_of_greedy_sets"]

_STEPS_PER_CHECK: Final = 16
_CANDIDATES: Final = 32
_ROUNDING: Final = 1e-5


def greedy_facility_location(similarity: Tensor, weights: Tensor, k: int) -> Tensor:
    """Greedy maximisation of sum_i w_i max_{c in S} s_ic over sets S of k patches.

    Each step adds the patch with the largest gain. The objective is submodular, so the greedy set reaches at least 63 %
    of the optimum (Nemhauser, Wolsey & Fisher 1978). A patch that resembles a chosen one has a small gain, so
    near-duplicates are chosen late.

    Args:
        similarity: similarity s, [N, N], not negative; column c is how well patch c represents each patch.
        weights: weights w of the patches, [N], not negative.
        k: number of patches to choose, 1 <= k <= N.

    Returns:
        [k] int64, in the order of choice, all different. Of equal gains the smallest index is taken.
    """
    steps = _greedy_steps(similarity, weights)
    return torch.cat([next(steps)[0] for _ in range(k)], dim=-1).view(*weights.shape[:-1], k)


def lazy_greedy_facility_location(similarity: Tensor, weights: Tensor, k: int) -> Tensor:
    """The set of `greedy_facility_location`, with few gains computed in each step.

    A gain never grows, so the gain of an earlier step bounds it from above (Minoux 1978). Only candidates whose bound
    reaches the best gain are computed again. Which ones they are is read back in each step, so this is for a CPU.

    Args:
        similarity, weights, k: see `greedy_facility_location`; without batch axes.
    """
    rows = (similarity.T * weights).contiguous()
    bounds = rows.sum(dim=-1)
    covered, value = torch.zeros_like(weights), 0.0
    # Sums are rounded, so a bound may be a little smaller than the gain that it bounds.
    slack = _ROUNDING * float(rows.amax(dim=0).sum())
    chosen: list[int] = []
    for _ in range(k):
        count = min(_CANDIDATES, len(weights))
        while True:
            largest = bounds.topk(min(count + 1, len(weights)))
            candidates = largest.indices[:count].sort().values
            is_chosen = bounds[candidates] == -torch.inf
            values = torch.maximum(rows[candidates], covered).sum(dim=-1).masked_fill(is_chosen, -torch.inf)
            best = int(values.argmax())  # the first of equal values
            gain = float(values[best]) - value
            if count == len(weights) or gain > float(largest.values[-1]) + slack:
                break
            count = min(4 * count, len(weights))
        bounds[candidates] = values - value
        chosen.append(int(candidates[best]))
        bounds[chosen[-1]] = -torch.inf
        covered = torch.maximum(covered, rows[chosen[-1]])
        value = float(covered.sum())
    return torch.tensor(chosen)


def values_of_greedy_sets(similarity: Tensor, weights: Tensor, target: Tensor) -> Tensor:
    """Values of the objective after each greedy step, [n], n <= N; the last ones may lie beyond the target.

    On a CPU, where reading a value costs nothing, the search ends soon after all of the batch have reached their
    target. Elsewhere all N steps are taken, since a read would wait for the device in every step.

    Args:
        similarity, weights: see `greedy_facility_location`.
        target: value to reach, without axes but those of the batch.
    """
    values: list[Tensor] = []
    for step, (best, scores) in enumerate(_greedy_steps(similarity, weights), start=1):
        values.append(scores.gather(-1, best))
        if step == weights.shape[-1]:
            break
        if step % _STEPS_PER_CHECK == 0 and weights.device.type == "cpu":
            has_ended = (values[-1] >= target.view(-1, 1)) | (values[-1] <= values[-2])
            if bool(has_ended.all()):
                break
    return torch.cat(values, dim=-1).view(*weights.shape[:-1], len(values))


def counts_to_reach(values: Tensor, target: Tensor) -> Tensor:
    """Number of greedy steps until the target is reached, or until a step gains nothing, which does not count.

    Args:
        values: values after each step, [n].
        target: value to reach, without axes but those of the batch.

    Returns:
        int64 without axes but those of the batch; at least 1, at most n.
    """
    is_reached = values >= target[..., None]
    gains_nothing = torch.zeros_like(is_reached)
    gains_nothing[..., 1:] = values[..., 1:] <= values[..., :-1]
    steps = torch.arange(values.shape[-1], device=values.device)
    last = values.shape[-1]
    by_target = torch.where(is_reached, steps + 1, last).amin(dim=-1)
    by_gain = torch.where(gains_nothing, steps, last).amin(dim=-1)
    return torch.minimum(by_target, by_gain)


def _greedy_steps(similarity: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The patch chosen in each step, [B, 1], and the value of the objective with each candidate added, [B, N]."""
    num_patches = weights.shape[-1]
    # w max(s, c) = max(w s, w c): with the weights inside, a step is a maximum and a sum.
    rows = (similarity.mT * weights[..., None, :]).contiguous().view(-1, num_patches, num_patches)
    batch = torch.arange(len(rows), device=rows.device)[:, None]
    covered = rows.new_zeros(len(rows), 1, num_patches)
    penalty = rows.new_zeros(len(rows), num_patches)
    with_candidate = torch.empty_like(rows)
    while True:
        torch.maximum(rows, covered, out=with_candidate)
        scores = with_candidate.sum(dim=-1).add_(penalty)
        best = scores.argmax(dim=-1, keepdim=True)  # the first of equal values
        yield best, scores
        penalty.scatter_(1, best, -torch.inf)
        torch.maximum(covered, rows[batch, best], out=covered)
