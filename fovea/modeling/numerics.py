"""Deterministic top-k and minimum precision, for the pruners of both services."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32", "top_k"]


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest of `scores` [N], ascending. Of equal scores the smaller index is taken.

    `torch.topk` leaves the order of equal scores open, and two replicas must agree.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:k].sort().values


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32 if it is of half precision, else unchanged: the precision of scores and means."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
