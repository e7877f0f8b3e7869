"""Saliency alone: the tokens with the most CLS attention. The question is not read."""

from __future__ import annotations

from dataclasses import dataclass

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.merging import assign_to_nearest
from encoder_service.pruners.tower_outputs import SALIENCY_LAST
from fovea.modeling.numerics import at_least_float32, top_k

__all__ = ["PRUNER"]


@dataclass(frozen=True, slots=True)
class ClsParameters:
    """No parameters."""


def prune(inputs: PrunerInput, params: ClsParameters) -> PrunedTokens:
    """Keeps the K most salient tokens and merges each other token into its nearest one."""
    hidden, saliency = inputs.vision.hidden, at_least_float32(inputs.vision.outputs[SALIENCY_LAST])
    kept = top_k(saliency, inputs.keep)
    cluster_of_patch = assign_to_nearest(hidden, kept)
    return PrunedTokens.merged(inputs.vision, kept, cluster_of_patch, saliency_map=saliency)


PRUNER = Pruner(
    name="cls",
    summary="Keeps the tokens with the most CLS attention in the last layer. Merges each other token into the most"
    " similar kept one.",
    parameters=ClsParameters,
    requirements=lambda params: FeatureRequirements(outputs=frozenset({SALIENCY_LAST})),
    prune=prune,
)
