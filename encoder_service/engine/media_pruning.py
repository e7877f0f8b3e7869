"""Pruning of a batch of images and videos: units that are pruned alike are one call of their pruner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.isolation import all_or_error, retry_individually
from encoder_service.engine.pruned_media import FLOAT32, conversion_of, copy_to_host
from encoder_service.engine.pruning_units import PruningUnit
from encoder_service.engine.request_media import RequestMedia
from encoder_service.engine.unit_batches import compute_in_groups, gather
from encoder_service.engine.unit_budgets import plan
from encoder_service.engine.wire_values import is_finite
from encoder_service.pruners.base import BoundPruner, PrunedTokens, PrunerInput

__all__ = ["RunPruner", "prune", "run_pruner"]

RunPruner: TypeAlias = Callable[[BoundPruner, PrunerInput], PrunedTokens]


def run_pruner(pruner: BoundPruner, inputs: PrunerInput) -> PrunedTokens:
    """Result of the pruner on a batch."""
    return pruner.prune(inputs)


def prune(media: Sequence[RequestMedia], run: RunPruner = run_pruner) -> list[EncodedMedia | Exception]:
    """Pruned visual tokens of each image and video, in the order in which the language model reads them.

    Everything up to the values that are sent stays on the device. One copy to the CPU ends the batch.

    Args:
        media: Images and videos whose features are known, with those of their questions.
        run: Function that runs a pruner on a batch.

    Returns:
        For each image or video its tokens or its error.
    """

    def prune_group(units: Sequence[PruningUnit]) -> list[PruningUnit]:
        inputs = gather(units)
        tokens = _with_float32_maps(run(units[0].pruner, inputs)).with_planes(inputs.vision)
        return [dataclasses.replace(unit, tokens=tokens, tokens_row=row) for row, unit in enumerate(units)]

    plans = plan(media)
    kept = [unit for units in plans if not isinstance(units, Exception) for unit in units if unit.keep]
    outcomes = compute_in_groups(prune_group, kept)
    pruned = [
        units if isinstance(units, Exception) else all_or_error([outcomes.get(id(unit), unit) for unit in units])
        for units in plans
    ]
    encoded = iter(retry_individually(_encoded, [units for units in pruned if not isinstance(units, Exception)]))
    return [units if isinstance(units, Exception) else next(encoded) for units in pruned]


def _with_float32_maps(tokens: PrunedTokens) -> PrunedTokens:
    task_map, saliency_map = tokens.task_map, tokens.saliency_map
    return dataclasses.replace(
        tokens,
        task_map=None if task_map is None else task_map.to(torch.float32),
        saliency_map=None if saliency_map is None else saliency_map.to(torch.float32),
    )


def _encoded(media: Sequence[Sequence[PruningUnit]]) -> list[EncodedMedia]:
    """Images and videos on the CPU, from the units of each.

    Values that are not finite in their wire format are copied again, in float32, for the error to tell what is wrong
    and which formats would do.
    """
    conversions = [conversion_of(units) for units in media]
    encoded = copy_to_host(media, conversions)
    failed = [i for i, to in enumerate(conversions) if to != FLOAT32 and not all(map(is_finite, encoded[i].vectors))]
    again = copy_to_host([media[i] for i in failed], [FLOAT32] * len(failed)) if failed else []
    for i, item in zip(failed, again, strict=True):
        encoded[i] = item
    return encoded
