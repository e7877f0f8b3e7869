"""Merging of dropped tokens into kept ones, for every pruner whose paper does not define its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from fovea.modeling.numerics import at_least_float32

__all__ = ["assign_to_nearest", "merge_means", "merge_weighted"]


def assign_to_nearest(metric: Tensor, kept: Tensor) -> Tensor:
    """Cluster of each patch: its own if it is kept, else that of the kept patch with the highest cosine similarity.

    Args:
        metric: vectors whose similarity is measured, [N, C].
        kept: kept patches, [K] int64.

    Returns:
        [N] int64, values in 0..K-1. Of equally similar patches the first is taken.
    """
    unit = normalize(at_least_float32(metric), dim=-1)
    # argmax returns the first of equal values, on CUDA too (torch.argmax).
    cluster_of_patch = (unit @ unit[kept].T).argmax(dim=1)
    cluster_of_patch[kept] = torch.arange(len(kept), device=metric.device)
    return cluster_of_patch


def merge_means(features: Tensor, cluster_of_patch: Tensor, num_kept: int) -> Tensor:
    """Mean of each cluster, summed in at least float32. A cluster of one patch is returned bit for bit.

    Args:
        features: features of the patches, [N, C].
        cluster_of_patch: cluster of each patch, [N] int64, values in 0..K-1; no cluster is empty.
        num_kept: K.

    Returns:
        [K, C], at least float32.
    """
    features = at_least_float32(features)
    # A product with a 0/1 matrix, since index_add_ on CUDA adds in a different order on every run.
    member = one_hot(cluster_of_patch, num_kept).T.to(features.dtype)
    means = (member @ features) / member.sum(dim=1, keepdim=True)
    alone = member.sum(dim=1)[cluster_of_patch] == 1
    means[cluster_of_patch[alone]] = features[alone]
    return means


def merge_weighted(features: Tensor, cluster_of_patch: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    """Weighted mean of each cluster, rescaled to the norm of its kept patch.

    The mean of different vectors has a smaller norm than the vectors, which the language model reads as less contrast.

    Args:
        features: features of the patches, [N, C].
        cluster_of_patch: cluster of each patch, [N] int64, values in 0..K-1; each kept patch is in its own cluster.
        weights: weights of the patches, [N], not negative. A cluster whose weights are all zero has equal weights.
        kept: kept patches, [K] int64.

    Returns:
        [K, C], at least float32. A cluster of one patch is returned bit for bit.
    """
    features = at_least_float32(features)
    member = one_hot(cluster_of_patch, len(kept)).T.to(features.dtype)
    weighted = member * weights.to(features.dtype)
    weighted = torch.where(weighted.sum(dim=1, keepdim=True) > 0, weighted, member)
    means = (weighted @ features) / weighted.sum(dim=1, keepdim=True)
    centres = features[kept]
    norm = means.norm(dim=1, keepdim=True).clamp_min(torch.finfo(means.dtype).tiny)
    means = means * (centres.norm(dim=1, keepdim=True) / norm)
    alone = member.sum(dim=1) == 1
    return torch.where(alone[:, None], centres, means)
