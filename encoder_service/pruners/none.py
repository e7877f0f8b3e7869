"""No pruning: the reference for every other pruner."""

from __future__ import annotations

from dataclasses import dataclass

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput
from fovea.pruner_spec import NO_PRUNING

__all__ = ["PRUNER"]


@dataclass(frozen=True, slots=True)
class NoParameters:
    """No parameters."""


def prune(inputs: PrunerInput, params: NoParameters) -> PrunedTokens:
    """All tokens unchanged, whatever the budget."""
    return PrunedTokens.unpruned(inputs.vision)


PRUNER = Pruner(
    name=NO_PRUNING,
    summary="Keeps every token and takes no budget.",
    parameters=NoParameters,
    requirements=lambda params: FeatureRequirements(),
    prune=prune,
)
