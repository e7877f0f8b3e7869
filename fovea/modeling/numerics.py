"""Deterministic top-k, minimum precision and rows by index, for the pruners of both services.

All functions take leading batch axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32", "take_vectors", "top_k"]


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest of `scores` [..., N], ascending, [..., k]. Of equal scores the smaller index is taken.

    `torch.topk` leaves the order of equal scores open, and two replicas must agree.
    """
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    return order[..., :k].sort(dim=-1).values


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32 if it is of half precision, else unchanged: the precision of scores and means."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def take_vectors(vectors: Tensor, index: Tensor) -> Tensor:
    """Vectors [..., N, C] at `index` [..., k]: [..., k, C]."""
    return vectors.gather(-2, index[..., None].expand(*index.shape, vectors.shape[-1]))
