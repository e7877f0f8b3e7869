"""Clustering by density peaks (Rodriguez and Laio 2014), as SparseVLM recycles tokens with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["cluster_means", "density_peaks"]


def density_peaks(points: Tensor, num_clusters: int) -> Tensor:
    """The cluster of each of m points.

    A centre is dense and far from anything denser. Of two equally dense points the earlier counts as denser: where the
    authors break ties by noise, this rule makes the outcome repeatable.

    Args:
        points: [m, D].
        num_clusters: q, 1 <= q <= m; also the number of neighbours, itself included, that make a point's density.

    Returns:
        [m] int64, 0 to q - 1 in the order of the centres' weight.
    """
    count = len(points)
    # Each pair's distance is one number, so that it is the same from both ends to the last bit.
    difference = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(points.shape[-1])
    distance = torch.triu(difference, diagonal=1)
    distance = distance + distance.T
    nearest = distance.sort(dim=-1).values[:, :num_clusters]
    density = (-(nearest**2).mean(dim=-1)).exp()
    earlier = torch.ones(count, count, dtype=torch.bool, device=points.device).tril(diagonal=-1)
    denser = (density > density[:, None]) | ((density == density[:, None]) & earlier)
    to_denser = distance.masked_fill(~denser, torch.inf).min(dim=-1).values
    to_denser = torch.where(to_denser.isinf(), distance.max(), to_denser)
    centers = torch.sort(to_denser * density, descending=True, stable=True).indices[:num_clusters]
    owner = distance[:, centers].min(dim=-1).indices
    owner[centers] = torch.arange(num_clusters, device=points.device)
    return owner


def cluster_means(points: Tensor, owner: Tensor, num_clusters: int) -> Tensor:
    """[q, D]: sum of each cluster over its size + 1e-6, the authors' guard against empty ones."""
    sums = points.new_zeros(num_clusters, points.shape[-1]).index_add_(0, owner, points)
    sizes = torch.bincount(owner, minlength=num_clusters).to(points.dtype)
    return sums / (sizes + 1e-6)[:, None]
