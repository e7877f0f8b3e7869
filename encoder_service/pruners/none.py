"""No pruning: the reference for every other pruner."""

from __future__ import annotations

from dataclasses import dataclass

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput

__all__ = ["PRUNER"]


@dataclass(frozen=True, slots=True)
class NoParameters:
    """No parameters."""


def prune(inputs: PrunerInput, params: NoParameters) -> PrunedTokens:
    """All tokens unchanged, whatever the budget."""
    return PrunedTokens.unpruned(inputs.vision)


PRUNER = Pruner(
    name="none",
    summary="Keeps every token and ignores the budget.",
    parameters=NoParameters,
    requirements=lambda params: FeatureRequirements(),
    prune=prune,
)
