"""Clustering by density peaks (Rodriguez and Laio 2014), with which SparseVLM merges tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["cluster_means", "density_peaks"]


def density_peaks(points: Tensor, num_clusters: int) -> Tensor:
    """Cluster index of each of m points.

    A center is dense and far from all denser points. Of two equally dense points the earlier counts as denser, which
    makes the result repeatable; the authors break ties with noise.

    Args:
        points: [m, D] points.
        num_clusters: q, 1 <= q <= m; also the number of neighbours, the point included, that determine its density.

    Returns:
        [m] int64, 0 to q - 1, in descending order of the centers' score.
    """
    count = len(points)
    # Each pair's distance is computed once, so that it is bitwise symmetric.
    difference = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(points.shape[-1])
    distance = torch.triu(difference, diagonal=1)
    distance = distance + distance.T
    nearest = distance.sort(dim=-1).values[:, :num_clusters]
    density = (-(nearest**2).mean(dim=-1)).exp()
    earlier = torch.ones(count, count, dtype=torch.bool, device=points.device).tril(diagonal=-1)
    denser = (density > density[:, None]) | ((density == density[:, None]) & earlier)
    distance_to_denser = distance.masked_fill(~denser, torch.inf).min(dim=-1).values
    distance_to_denser = torch.where(distance_to_denser.isinf(), distance.max(), distance_to_denser)
    centers = torch.sort(distance_to_denser * density, descending=True, stable=True).indices[:num_clusters]
    cluster_of_point = distance[:, centers].min(dim=-1).indices
    cluster_of_point[centers] = torch.arange(num_clusters, device=points.device)
    return cluster_of_point


def cluster_means(points: Tensor, cluster_of_point: Tensor, num_clusters: int) -> Tensor:
    """[q, D] sum of each cluster over its size + 1e-6, the authors' guard against empty clusters."""
    sums = points.new_zeros(num_clusters, points.shape[-1]).index_add_(0, cluster_of_point, points)
    sizes = torch.bincount(cluster_of_point, minlength=num_clusters).to(points.dtype)
    return sums / (sizes + 1e-6)[:, None]
