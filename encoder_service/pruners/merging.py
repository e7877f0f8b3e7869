"""Merging dropped tokens into kept ones, the same for every pruner that does not bring its own way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from encoder_service.pruners.base import at_least_float32

__all__ = ["assign_to_nearest", "merge_means"]


def assign_to_nearest(metric: Tensor, kept_index: Tensor) -> Tensor:
    """For each of the N rows of `metric` [N, C] the kept row it belongs to: itself, or the most similar by cosine.

    Args:
        metric: What similarity is measured on.
        kept_index: [K], ascending.

    Returns:
        [N], int64, values in 0..K-1. Of equally similar ones the first is taken.
    """
    unit = normalize(at_least_float32(metric), dim=-1)
    # argmax names the first of equal values; on CUDA too (torch.argmax).
    owner = (unit @ unit[kept_index].T).argmax(dim=1)
    owner[kept_index] = torch.arange(len(kept_index), device=metric.device)
    return owner


def merge_means(features: Tensor, owner: Tensor, num_kept: int) -> Tensor:
    """Plain means of clusters, centre included: [N, C] and owners [N] to [K, C], summed in at least float32.

    A cluster of one is returned bit for bit.
    """
    features = at_least_float32(features)
    # A product with a 0/1 matrix, not index_add_: on CUDA that adds in a different order on every run.
    member = one_hot(owner, num_kept).T.to(features.dtype)
    means = (member @ features) / member.sum(dim=1, keepdim=True)
    alone = member.sum(dim=1)[owner] == 1
    means[owner[alone]] = features[alone]
    return means
