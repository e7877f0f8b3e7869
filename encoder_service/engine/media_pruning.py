"""Pruning of a batch of images and videos: units that are pruned alike are one call of their pruner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from torch import Tensor

from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.isolation import retry_individually
from encoder_service.engine.pruned_media import FLOAT32, PrunedMedia, PrunedUnit, copy_to_host
from encoder_service.engine.pruning_units import PruningTask, gather, grouped
from encoder_service.engine.unit_budgets import MediaToPrune, plan
from encoder_service.engine.wire_values import is_finite
from encoder_service.pruners.base import BoundPruner, PrunedTokens, PrunerInput
from encoder_service.pruners.tower_outputs import CLS_HIDDEN

__all__ = ["RunPruner", "prune", "run_pruner"]

RunPruner: TypeAlias = Callable[[BoundPruner, PrunerInput], PrunedTokens]
_Outcomes: TypeAlias = dict[int, PrunedUnit | Exception]
"""Tokens of each task, by its id, or its error."""


def run_pruner(pruner: BoundPruner, inputs: PrunerInput) -> PrunedTokens:
    """Result of the pruner on a batch."""
    return pruner.prune(inputs)


def prune(media: Sequence[MediaToPrune], run: RunPruner = run_pruner) -> list[EncodedMedia | Exception]:
    """Pruned visual tokens of each image and video, in the order in which the language model reads them.

    Everything up to the values that are sent stays on the device. One copy to the CPU ends the batch.

    Args:
        media: Images and videos with their pruners and budgets.
        run: Function that runs a pruner on a batch.

    Returns:
        For each image or video its tokens or its error.
    """

    def prune_group(tasks: Sequence[PruningTask]) -> list[PrunedUnit]:
        group = run(tasks[0].pruner, gather(tasks))
        return [PrunedUnit(group, row) for row in range(len(tasks))]

    plans = plan(media)
    outcomes: _Outcomes = {}
    for group in grouped(task for planned in plans if isinstance(planned, list) for task in planned if task.keep):
        results = retry_individually(prune_group, group)
        outcomes |= {id(task): result for task, result in zip(group, results, strict=True)}
    pruned = [_pruned(item, planned, outcomes) for item, planned in zip(media, plans, strict=True)]
    encoded = iter(retry_individually(_encoded, [result for result in pruned if isinstance(result, PrunedMedia)]))
    return [result if isinstance(result, Exception) else next(encoded) for result in pruned]


def _pruned(
    item: MediaToPrune, planned: list[PruningTask] | Exception, outcomes: Mapping[int, PrunedUnit | Exception]
) -> PrunedMedia | Exception:
    if isinstance(planned, Exception):
        return planned
    units: list[PrunedUnit | None] = []
    for task in planned:
        outcome = outcomes[id(task)] if task.keep else None
        if isinstance(outcome, Exception):
            return outcome
        units.append(outcome)
    return PrunedMedia(item, planned, units, _cls_tokens(item, planned, units))


def _cls_tokens(
    item: MediaToPrune, planned: Sequence[PruningTask], units: Sequence[PrunedUnit | None]
) -> Tensor | None:
    """CLS tokens of an image or video that may be left unpruned; None if it has none."""
    features = item.features
    if not features.layout.cls_per_input or not features.have({CLS_HIDDEN}):
        return None
    for task, unit in zip(planned, units, strict=True):
        if unit is None or unit.group.origins.shape[-1] < task.unit.num_patches:
            return None
    return features.batch.outputs[CLS_HIDDEN][features.rows[0] : features.rows[-1] + 1]


def _encoded(media: Sequence[PrunedMedia]) -> list[EncodedMedia]:
    """Images and videos on the CPU.

    Values that are not finite in their wire format are copied again, in float32, for the error to tell what is wrong
    and which formats would do.
    """
    conversions = [item.conversion for item in media]
    encoded = copy_to_host(media, conversions)
    failed = [i for i, to in enumerate(conversions) if to != FLOAT32 and not is_finite(encoded[i].values)]
    again = copy_to_host([media[i] for i in failed], [FLOAT32] * len(failed)) if failed else []
    for i, item in zip(failed, again, strict=True):
        encoded[i] = item
    return encoded
