"""Selections and precisions that the pruners of both services use."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32", "top_k"]


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest of `scores` [N], ascending. Equal scores go to the smaller index.

    (`torch.topk` promises nothing about ties, and two replicas must agree.)
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:k].sort().values


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32 where it is of half precision; float64 stays. Scores and means are never taken in less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
