"""Saliency alone: the tokens that CLS attends to. The question is not read."""

from __future__ import annotations

from dataclasses import dataclass

from encoder_service.pruners.base import Needs, PrunedTokens, Pruner, PrunerInput, View
from encoder_service.pruners.merging import assign_to_nearest, merge_means
from fovea.modeling.numerics import at_least_float32, top_k

__all__ = ["PRUNER"]


@dataclass(frozen=True, slots=True)
class ClsParameters:
    """It has none."""


def prune(job: PrunerInput, params: ClsParameters) -> PrunedTokens:
    """The K most salient tokens; the others join their nearest."""
    hidden, saliency = job.vision.hidden, at_least_float32(job.vision.views[View.SALIENCY_LAST])
    kept = top_k(saliency, job.keep)
    owner = assign_to_nearest(hidden, kept)
    return PrunedTokens(
        features=merge_means(hidden, owner, job.keep), kept_index=kept, merged_into=owner, saliency_map=saliency
    )


PRUNER = Pruner(
    name="cls",
    summary="Keeps the tokens that CLS attends to most in the last layer; the others join their nearest kept one.",
    parameters=ClsParameters,
    needs=lambda params: Needs(views=frozenset({View.SALIENCY_LAST})),
    prune=prune,
)
