"""Random choice of tokens: the baseline for every method that chooses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.merging import assign_to_nearest, merge_means
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
    # Drawn on the CPU, since a CUDA generator would choose differently.
    generator = torch.Generator().manual_seed((inputs.seed + params.seed) % 2**63)
    kept = torch.randperm(len(hidden), generator=generator)[: inputs.keep].sort().values.to(hidden.device)
    cluster_of_patch = assign_to_nearest(hidden, kept)
    return PrunedTokens(
        features=merge_means(hidden, cluster_of_patch, inputs.keep), origins=kept, cluster_of_patch=cluster_of_patch
    )


PRUNER = Pruner(
    name="random",
    summary="Keeps random tokens, the same for equal images. Merges each other token into the most similar kept one.",
    parameters=RandomParameters,
    requirements=lambda params: FeatureRequirements(),
    prune=prune,
)
