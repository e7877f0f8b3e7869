"""Merging of dropped tokens into kept ones, for every pruner whose paper does not define its own.

All functions take leading batch axes before the axes that are named here. Sums over a cluster are products with a 0/1
matrix, since `index_add_` on CUDA adds in a different order on every run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fovea.modeling.numerics import at_least_float32, take_vectors

__all__ = ["assign_to_nearest", "clusters_of_kept", "in_each_plane", "membership", "merge_means", "merge_weighted"]


def clusters_of_kept(kept: Tensor, num_patches: int) -> Tensor:
    """Cluster of each patch where nothing is merged: the index of a kept patch in `kept` [K], else -1; [N] int64."""
    clusters = kept.new_full((*kept.shape[:-1], num_patches), -1)
    return clusters.scatter_(-1, kept, torch.arange(kept.shape[-1], device=kept.device).expand(kept.shape))


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
    nearest = (unit @ take_vectors(unit, kept).mT).argmax(dim=-1)
    return nearest.scatter_(-1, kept, torch.arange(kept.shape[-1], device=kept.device).expand(kept.shape))


def in_each_plane(combine: Callable[..., Tensor], planes: Tensor, *arguments: Tensor) -> Tensor:
    """Tokens of DeepStack planes by the rule by which those of the features are made.

    The planes of a token are thus those of the same patches with the same weights. What a rule computes from vectors,
    such as the norm of `merge_weighted`, it computes in each plane by itself.

    Args:
        combine: function from vectors [N, C] and `arguments` to tokens [K, C].
        planes: planes of the patches, [P, N, C].
        arguments: indices, clusters or weights, with one axis after those of the batch.
    """
    num_planes = planes.shape[-3]
    return combine(planes, *(one[..., None, :].expand(*one.shape[:-1], num_planes, -1) for one in arguments))


def membership(cluster_of_patch: Tensor, num_clusters: int, dtype: torch.dtype) -> Tensor:
    """Matrix with 1 where a patch belongs to a cluster and 0 elsewhere, [N] to [K, N]. -1 belongs to none."""
    clusters = torch.arange(num_clusters, device=cluster_of_patch.device)
    return (cluster_of_patch[..., None, :] == clusters[:, None]).to(dtype)


def merge_means(features: Tensor, cluster_of_patch: Tensor, kept: Tensor) -> Tensor:
    """Mean of each cluster, summed in at least float32. A cluster of one patch is returned bit for bit.

    Args:
        features: features of the patches, [N, C].
        cluster_of_patch: cluster of each patch, [N] int64, values in 0..K-1.
        kept: kept patches, [K] int64; each is in its own cluster.

    Returns:
        [K, C], at least float32.
    """
    features = at_least_float32(features)
    member = membership(cluster_of_patch, kept.shape[-1], features.dtype)
    sizes = member.sum(dim=-1, keepdim=True)
    return torch.where(sizes == 1, take_vectors(features, kept), (member @ features) / sizes)


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
    member = membership(cluster_of_patch, kept.shape[-1], features.dtype)
    weighted = member * weights.to(features.dtype)[..., None, :]
    weighted = torch.where(weighted.sum(dim=-1, keepdim=True) > 0, weighted, member)
    means = (weighted @ features) / weighted.sum(dim=-1, keepdim=True)
    centres = take_vectors(features, kept)
    norm = means.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(means.dtype).tiny)
    means = means * (centres.norm(dim=-1, keepdim=True) / norm)
    return torch.where(member.sum(dim=-1, keepdim=True) == 1, centres, means)
