"""Saliency alone: the tokens that CLS attends to. The question is not read."""

from __future__ import annotations

from dataclasses import dataclass

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.merging import assign_to_nearest, merge_means
from encoder_service.pruners.tower_outputs import SALIENCY_LAST
from fovea.modeling.numerics import at_least_float32, top_k

__all__ = ["PRUNER"]


@dataclass(frozen=True, slots=True)
class ClsParameters:
    """It has none."""


def prune(job: PrunerInput, params: ClsParameters) -> PrunedTokens:
    """The K most salient tokens; the others join their nearest."""
    hidden, saliency = job.vision.hidden, at_least_float32(job.vision.outputs[SALIENCY_LAST])
    kept = top_k(saliency, job.keep)
    cluster_of_patch = assign_to_nearest(hidden, kept)
    return PrunedTokens(
        features=merge_means(hidden, cluster_of_patch, job.keep),
        origins=kept,
        cluster_of_patch=cluster_of_patch,
        saliency_map=saliency,
    )


PRUNER = Pruner(
    name="cls",
    summary="Keeps the tokens that CLS attends to most in the last layer; the others join their nearest kept one.",
    parameters=ClsParameters,
    requirements=lambda params: FeatureRequirements(outputs=frozenset({SALIENCY_LAST})),
    prune=prune,
)
