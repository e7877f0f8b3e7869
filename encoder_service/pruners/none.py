"""No pruning: the reference that every other pruner is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encoder_service.pruners.base import Needs, PrunedTokens, Pruner, PrunerInput, at_least_float32

__all__ = ["PRUNER"]


@dataclass(frozen=True, slots=True)
class NoParameters:
    """It has none."""


def prune(job: PrunerInput, params: NoParameters) -> PrunedTokens:
    """All tokens as they are, whatever the budget."""
    index = torch.arange(len(job.vision.hidden), device=job.vision.hidden.device)
    return PrunedTokens(features=at_least_float32(job.vision.hidden), kept_index=index, merged_into=index.clone())


PRUNER = Pruner(
    name="none",
    summary="Keeps every token and ignores the budget.",
    parameters=NoParameters,
    needs=lambda params: Needs(),
    prune=prune,
)
