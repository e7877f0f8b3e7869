"""Regular lattice of tokens: a baseline that covers every region alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.merging import assign_to_nearest
from fovea.modeling.transfers import to_device

__all__ = ["PRUNER", "lattice"]


@dataclass(frozen=True, slots=True)
class UniformParameters:
    """No parameters."""


def lattice(grid: tuple[int, int], k: int) -> Tensor:
    """Raster indices of k patches spread evenly over both axes of a grid.

    The number of lattice rows makes the spacing equal in both directions. The k patches are shared evenly among these
    rows, and each row spreads its patches evenly over the columns.

    Args:
        grid: rows and columns of the patch grid.
        k: number of patches, 1 <= k <= rows * columns.

    Returns:
        [k] int64, ascending, all different.
    """
    rows, columns = grid
    num_rows = min(max(round(math.sqrt(k * rows / columns)), math.ceil(k / columns)), rows)
    patches = []
    for i in range(num_rows):
        row = (2 * i + 1) * rows // (2 * num_rows)
        share = (i + 1) * k // num_rows - i * k // num_rows
        patches += [row * columns + (2 * j + 1) * columns // (2 * share) for j in range(share)]
    return torch.tensor(patches)


def prune(inputs: PrunerInput, params: UniformParameters) -> PrunedTokens:
    """Keeps a lattice of K tokens and merges each other token into its nearest one."""
    hidden = inputs.vision.hidden
    kept = to_device(lattice(inputs.vision.grid, inputs.keep), hidden.device).expand(*hidden.shape[:-2], -1)
    cluster_of_patch = assign_to_nearest(hidden, kept)
    return PrunedTokens.merged(inputs.vision, kept, cluster_of_patch)


PRUNER = Pruner(
    name="uniform",
    summary="Keeps a regular lattice of tokens, the same for every image. Merges each other token into the most similar"
    " kept one.",
    parameters=UniformParameters,
    requirements=lambda params: FeatureRequirements(),
    prune=prune,
)
