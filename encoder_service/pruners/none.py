"""No pruning: the reference that every other pruner is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput

__all__ = ["PRUNER"]


@dataclass(frozen=True, slots=True)
class NoParameters:
    """It has none."""


def prune(job: PrunerInput, params: NoParameters) -> PrunedTokens:
    """All tokens as they are, whatever the budget."""
    return PrunedTokens.all_of(job.vision)


PRUNER = Pruner(
    name="none",
    summary="Keeps every token and ignores the budget.",
    parameters=NoParameters,
    requirements=lambda params: FeatureRequirements(),
    prune=prune,
)
