"""Chance: the baseline that shows what a choice is worth."""

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
        0, minimum=0, maximum=2**31 - 1, description="a whole number, 0 to 2147483647; another seed, another choice"
    )


def prune(job: PrunerInput, params: RandomParameters) -> PrunedTokens:
    """K tokens by chance, the same ones for the same picture and seed; the others join their nearest."""
    hidden = job.vision.hidden
    # Drawn on the CPU: a CUDA generator would choose differently.
    generator = torch.Generator().manual_seed((job.seed + params.seed) % 2**63)
    kept = torch.randperm(len(hidden), generator=generator)[: job.keep].sort().values.to(hidden.device)
    cluster_of_patch = assign_to_nearest(hidden, kept)
    return PrunedTokens(
        features=merge_means(hidden, cluster_of_patch, job.keep), origins=kept, cluster_of_patch=cluster_of_patch
    )


PRUNER = Pruner(
    name="random",
    summary="Keeps tokens by chance, the same for the same picture; the others join their nearest kept one.",
    parameters=RandomParameters,
    requirements=lambda params: FeatureRequirements(),
    prune=prune,
)
