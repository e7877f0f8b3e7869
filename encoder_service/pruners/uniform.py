"""A regular lattice: the baseline that looks nowhere in particular and overlooks no region."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.merging import assign_to_nearest, merge_means

__all__ = ["PRUNER", "lattice"]


@dataclass(frozen=True, slots=True)
class UniformParameters:
    """It has none."""


def lattice(grid: tuple[int, int], k: int) -> Tensor:
    """k patches spread evenly over both axes of a grid, 1 <= k <= rows * columns.

    As many lattice rows as make the spacing alike in both directions; k is dealt out evenly among them, and each
    spreads its share evenly over the columns.

    Returns:
        [k], int64, raster indices, ascending, all different.
    """
    rows, columns = grid
    num_rows = min(max(round(math.sqrt(k * rows / columns)), math.ceil(k / columns)), rows)
    index = []
    for i in range(num_rows):
        row = (2 * i + 1) * rows // (2 * num_rows)
        share = (i + 1) * k // num_rows - i * k // num_rows
        index += [row * columns + (2 * j + 1) * columns // (2 * share) for j in range(share)]
    return torch.tensor(index)


def prune(job: PrunerInput, params: UniformParameters) -> PrunedTokens:
    """A lattice of K tokens, the same for every picture; the others join their nearest."""
    hidden = job.vision.hidden
    kept = lattice(job.vision.grid, job.keep).to(hidden.device)
    cluster_of_patch = assign_to_nearest(hidden, kept)
    return PrunedTokens(
        features=merge_means(hidden, cluster_of_patch, job.keep), origins=kept, cluster_of_patch=cluster_of_patch
    )


PRUNER = Pruner(
    name="uniform",
    summary="Keeps a regular lattice of tokens, whatever the picture; the others join their nearest kept one.",
    parameters=UniformParameters,
    requirements=lambda params: FeatureRequirements(),
    prune=prune,
)
