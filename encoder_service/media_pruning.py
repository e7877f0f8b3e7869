"""Pruning of a batch of images and videos: units that are pruned alike are one call of their pruner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.encoded_media import EncodedMedia, UnitTokens, assemble
from encoder_service.media_features import MediaFeatures
from encoder_service.pruners.base import BoundPruner, PrunedTokens, PrunerInput
from encoder_service.pruners.tower_outputs import CLS_HIDDEN
from encoder_service.pruning_units import PruningTask, gather, grouped
from encoder_service.unit_budgets import MediaToPrune, plan
from fovea.modeling.transfers import to_host
from fovea.telemetry import FailureKind, count_failure

__all__ = ["RunPruner", "prune", "run_pruner"]

RunPruner: TypeAlias = Callable[[BoundPruner, PrunerInput], PrunedTokens]


def run_pruner(pruner: BoundPruner, inputs: PrunerInput) -> PrunedTokens:
    """Result of the pruner on a batch."""
    return pruner.prune(inputs)


def prune(media: Sequence[MediaToPrune], run: RunPruner = run_pruner) -> list[EncodedMedia | Exception]:
    """Pruned visual tokens of each image and video, in the order in which the language model reads them.

    Everything up to the tokens stays on the device. One copy to the CPU ends the batch.

    Args:
        media: Images and videos with their pruners and budgets.
        run: Function that runs a pruner on a batch.

    Returns:
        For each image or video its tokens or its error.
    """
    plans = plan(media)
    tasks = [task for planned in plans if isinstance(planned, list) for task in planned if task.keep]
    outcomes: dict[int, _Row | Exception] = {}
    copies = _Copies()
    for group in grouped(tasks):
        _prune_group(group, outcomes, copies, run)
    cls_tokens = [_cls_tokens(item, planned, outcomes, copies) for item, planned in zip(media, plans, strict=True)]
    arrays = copies.to_host()
    return [
        _assemble(item, planned, outcomes, arrays, cls)
        for item, planned, cls in zip(media, plans, cls_tokens, strict=True)
    ]


class _Copies:
    """Tensors that are copied to the CPU together."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []

    def add(self, tensor: Tensor) -> int:
        """Number of the array that `to_host` will have for `tensor`."""
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def to_host(self) -> list[npt.NDArray[Any]]:
        return to_host(self._tensors)


@dataclass(frozen=True, slots=True)
class _Group:
    """Tokens of a group: how many each row has, and the numbers of its arrays; None for those that it lacks."""

    num_tokens: int
    features: int
    origins: int
    cluster_of_patch: int
    task_map: int | None
    saliency_map: int | None
    reading_group: int | None
    counts: Sequence[int] | None

    @classmethod
    def of(cls, tokens: PrunedTokens, copies: _Copies) -> _Group:
        task_map, saliency_map = tokens.task_map, tokens.saliency_map
        return cls(
            tokens.origins.shape[-1],
            copies.add(tokens.features.to(torch.float32)),
            copies.add(tokens.origins),
            copies.add(tokens.cluster_of_patch),
            None if task_map is None else copies.add(task_map.to(torch.float32)),
            None if saliency_map is None else copies.add(saliency_map.to(torch.float32)),
            None if tokens.reading_group is None else copies.add(tokens.reading_group),
            tokens.counts,
        )


_Row = tuple[_Group, int]
"""Tokens of one task: those of its group, and its row."""


def _prune_group(
    tasks: Sequence[PruningTask], outcomes: dict[int, _Row | Exception], copies: _Copies, run: RunPruner
) -> None:
    """Prunes a group. If that fails, each task is pruned by itself, so that only a faulty one has an error."""
    try:
        group = _Group.of(run(tasks[0].pruner, gather(tasks)), copies)
    except Exception as error:
        if len(tasks) == 1:
            outcomes[id(tasks[0])] = error
            return
        count_failure(FailureKind.BATCH_SPLIT)
        for task in tasks:
            _prune_group([task], outcomes, copies, run)
        return
    for row, task in enumerate(tasks):
        outcomes[id(task)] = group, row


def _cls_tokens(
    item: MediaToPrune,
    planned: list[PruningTask] | Exception,
    outcomes: dict[int, _Row | Exception],
    copies: _Copies,
) -> int | None:
    """Number of the array with the CLS tokens of an image or video that may be left unpruned; None if it has none."""
    features = item.features
    if isinstance(planned, Exception) or not features.layout.cls_per_input or not features.have({CLS_HIDDEN}):
        return None
    for task in planned:
        outcome = outcomes[id(task)] if task.keep else None
        if not isinstance(outcome, tuple) or outcome[0].num_tokens < task.unit.num_patches:
            return None
    return copies.add(_rows(features).to(torch.float32))


def _rows(features: MediaFeatures) -> Tensor:
    return features.batch.outputs[CLS_HIDDEN][features.rows[0] : features.rows[-1] + 1]


def _assemble(
    item: MediaToPrune,
    planned: list[PruningTask] | Exception,
    outcomes: dict[int, _Row | Exception],
    arrays: Sequence[npt.NDArray[Any]],
    cls_tokens: int | None,
) -> EncodedMedia | Exception:
    if isinstance(planned, Exception):
        return planned
    units: list[UnitTokens | None] = []
    for task in planned:
        outcome = outcomes[id(task)] if task.keep else None
        if isinstance(outcome, Exception):
            return outcome
        units.append(None if outcome is None else _unit_tokens(task, *outcome, arrays))
    return assemble(
        item.features.layout,
        units,
        cls_tokens=None if cls_tokens is None else np.asarray(arrays[cls_tokens], np.float32),
        features_cached=item.features_cached,
    )


def _unit_tokens(task: PruningTask, group: _Group, row: int, arrays: Sequence[npt.NDArray[Any]]) -> UnitTokens:
    def array(number: int | None) -> npt.NDArray[Any] | None:
        return None if number is None else arrays[number][row]

    count = None if group.counts is None else group.counts[row]
    reading_group = array(group.reading_group)
    return UnitTokens(
        task.unit.positions,
        arrays[group.features][row][:count],
        arrays[group.origins][row][:count],
        arrays[group.cluster_of_patch][row],
        array(group.task_map),
        array(group.saliency_map),
        None if reading_group is None else reading_group[:count],
    )
