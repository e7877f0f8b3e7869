"""Random choice of tokens: the baseline for every method that chooses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.merging import assign_to_nearest
from fovea.modeling.transfers import to_device
from fovea.parameters import integer

__all__ = ["PRUNER"]


@dataclass(frozen=True, slots=True)
class RandomParameters:
    seed: int = integer(
        0, minimum=0, maximum=2**31 - 1, description="a whole number, 0 to 2147483647; seed of the random choice"
    )


def prune(inputs: PrunerInput, params: RandomParameters) -> PrunedTokens:
    """Keeps K random tokens, the same for equal images and seeds, and merges each other token into its nearest one."""
    hidden = inputs.vision.hidden
    num_patches = hidden.shape[-2]
    # Drawn on the CPU, since a CUDA generator would choose differently.
    orders = torch.stack([_order(num_patches, seed + params.seed) for seed in inputs.seeds])
    kept = to_device(orders[:, : inputs.keep].sort(dim=-1).values, hidden.device).view(*hidden.shape[:-2], inputs.keep)
    cluster_of_patch = assign_to_nearest(hidden, kept)
    return PrunedTokens.merged(inputs.vision, kept, cluster_of_patch)


def _order(num_patches: int, seed: int) -> Tensor:
    """Patches in random order, [N] int64."""
    return torch.randperm(num_patches, generator=torch.Generator().manual_seed(seed % 2**63))


PRUNER = Pruner(
    name="random",
    summary="Keeps random tokens, the same for equal images. Merges each other token into the most similar kept one.",
    parameters=RandomParameters,
    requirements=lambda params: FeatureRequirements(),
    prune=prune,
)
