"""Merging dropped tokens into kept ones, the same for every pruner that does not bring its own way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from fovea.modeling.numerics import at_least_float32

__all__ = ["assign_to_nearest", "merge_means", "merge_weighted"]


def assign_to_nearest(metric: Tensor, origins: Tensor) -> Tensor:
    """For each of the N rows of `metric` [N, C] the kept row it belongs to: itself, or the most similar by cosine.

    Args:
        metric: What similarity is measured on.
        kept_index: [K], ascending.

    Returns:
        [N], int64, values in 0..K-1. Of equally similar ones the first is taken.
    """
    unit = normalize(at_least_float32(metric), dim=-1)
    # argmax names the first of equal values; on CUDA too (torch.argmax).
    cluster_of_patch = (unit @ unit[origins].T).argmax(dim=1)
    cluster_of_patch[origins] = torch.arange(len(origins), device=metric.device)
    return cluster_of_patch


def merge_means(features: Tensor, cluster_of_patch: Tensor, num_kept: int) -> Tensor:
    """Plain means of clusters, centre included: [N, C] and owners [N] to [K, C], summed in at least float32.

    A cluster of one is returned bit for bit.
    """
    features = at_least_float32(features)
    # A product with a 0/1 matrix, not index_add_: on CUDA that adds in a different order on every run.
    member = one_hot(cluster_of_patch, num_kept).T.to(features.dtype)
    means = (member @ features) / member.sum(dim=1, keepdim=True)
    alone = member.sum(dim=1)[cluster_of_patch] == 1
    means[cluster_of_patch[alone]] = features[alone]
    return means


def merge_weighted(features: Tensor, cluster_of_patch: Tensor, weights: Tensor, origins: Tensor) -> Tensor:
    """Weighted means of clusters, each brought back to the length of its centre.

    A mean of vectors that differ is shorter than they are; to the language model that looks like less contrast.

    Args:
        features: [N, C].
        owner: [N], int64, values in 0..K-1; every centre owns itself.
        weights: [N], not negative. Where all members of a cluster have none they count alike.
        kept_index: [K], the centres.

    Returns:
        [K, C], at least float32. A cluster of one is returned bit for bit.
    """
    features = at_least_float32(features)
    member = one_hot(cluster_of_patch, len(origins)).T.to(features.dtype)
    weighted = member * weights.to(features.dtype)
    weighted = torch.where(weighted.sum(dim=1, keepdim=True) > 0, weighted, member)
    means = (weighted @ features) / weighted.sum(dim=1, keepdim=True)
    centres = features[origins]
    length = means.norm(dim=1, keepdim=True).clamp_min(torch.finfo(means.dtype).tiny)
    means = means * (centres.norm(dim=1, keepdim=True) / length)
    alone = member.sum(dim=1) == 1
    return torch.where(alone[:, None], centres, means)
