"""Batches of units: units that are pruned alike are one call of their pruner."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Final, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from encoder_service.engine.isolation import retry_individually
from encoder_service.engine.pruning_units import PruningUnit
from encoder_service.engine.request_media import TextRow
from encoder_service.pruners.base import PrunerInput, TextFeatures, TowerFeatures
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, TowerOutput
from fovea.modeling.transfers import to_device

__all__ = ["compute_in_groups", "gather"]

Result = TypeVar("Result")

_GroupKey: TypeAlias = tuple[object, ...]

_MAX_VALUES: Final = 2**26
"""Largest number of values in a call with several units, roughly: 256 MiB in float32. A single unit may have more."""
_PER_TEXT_POSITION: Final = 6
"""Number of [patches, text positions] matrices that FCMA (`pruners/fcma.py`) holds at once."""


def compute_in_groups(
    compute: Callable[[Sequence[PruningUnit]], Sequence[Result]], units: Sequence[PruningUnit]
) -> dict[int, Result | Exception]:
    """Result of each unit or its error, by its id, from one call of `compute` for each group that is pruned alike."""
    results: dict[int, Result | Exception] = {}
    for group in _grouped(units):
        results |= {id(unit): result for unit, result in zip(group, retry_individually(compute, group), strict=True)}
    return results


def _grouped(units: Sequence[PruningUnit]) -> list[list[PruningUnit]]:
    """Groups of units that can be pruned as one batch; units of one tower batch are next to each other.

    A group of more than `_MAX_VALUES` values is split.
    """
    groups: dict[_GroupKey, list[PruningUnit]] = {}
    for unit in units:
        groups.setdefault(_group_key(unit), []).append(unit)
    parts: list[list[PruningUnit]] = []
    for group in groups.values():
        in_order = [unit for of_batch in _by_tower_batch(group) for unit in of_batch]
        at_once = max(1, _MAX_VALUES // _num_values(in_order[0]))
        parts += [in_order[start : start + at_once] for start in range(0, len(in_order), at_once)]
    return parts


def _group_key(unit: PruningUnit) -> _GroupKey:
    """Key of the group: units with equal keys can be pruned as one batch."""
    text = unit.media.text
    return (
        unit.pruner,
        unit.grid,
        unit.keep,
        unit.num_kept_in_tower,
        unit.patches is None,
        len(unit.rows),
        None if text is None else id(text.batch),
    )


def _num_values(unit: PruningUnit) -> int:
    """Number of values that a pruner computes for a unit, roughly: features, similarities, and text."""
    channels, text = unit.batch.hidden.shape[-1], unit.media.text
    if unit.batch.planes is not None:
        channels *= 1 + unit.batch.planes.shape[-3]
    text_values, positions = 0, 0
    if text is not None:
        positions = text.batch.tokens.shape[1]
        text_values = positions * text.batch.tokens.shape[2]
    return unit.num_patches * (channels + unit.keep + _PER_TEXT_POSITION * positions) + text_values


def _by_tower_batch(units: Sequence[PruningUnit]) -> list[list[PruningUnit]]:
    by_batch: dict[int, list[PruningUnit]] = {}
    for unit in units:
        by_batch.setdefault(id(unit.batch), []).append(unit)
    return list(by_batch.values())


def gather(units: Sequence[PruningUnit], *, outputs: Set[TowerOutput] | None = None) -> PrunerInput:
    """Input of the pruner for a group of units.

    Args:
        units: Units that can be pruned as one batch.
        outputs: Tower outputs to include; None for those that the pruner requires.
    """
    first = units[0]
    outputs = first.pruner.requirements.outputs if outputs is None else outputs
    parts = [_gather_units(of_batch, outputs) for of_batch in _by_tower_batch(units)]
    texts = [unit.media.text for unit in units if unit.media.text is not None]
    return PrunerInput(
        _concatenated(parts), first.keep, _gather_texts(texts) if texts else None, [unit.seed for unit in units]
    )


def _concatenated(parts: Sequence[TowerFeatures]) -> TowerFeatures:
    if len(parts) == 1:
        return parts[0]
    kept = [part.kept_in_tower for part in parts if part.kept_in_tower is not None]
    planes = [part.planes for part in parts if part.planes is not None]
    return TowerFeatures(
        torch.cat([part.hidden for part in parts]),
        parts[0].grid,
        {output: torch.cat([part.outputs[output] for part in parts]) for output in sorted(parts[0].outputs)},
        torch.cat(kept) if kept else None,
        torch.cat(planes) if planes else None,
    )


def _gather_texts(texts: Sequence[TextRow]) -> TextFeatures:
    batch, rows = texts[0].batch, [text.row for text in texts]
    if rows == list(range(len(batch.tokens))):
        return batch
    return batch.take(to_device(torch.tensor(rows), batch.tokens.device))


def _gather_units(units: Sequence[PruningUnit], outputs: Set[TowerOutput]) -> TowerFeatures:
    """Features of units of one tower batch."""
    batch = units[0].batch
    computed = {output: batch.outputs[output] for output in sorted(outputs)}
    if units[0].patches is not None:
        return _gather_patches(units, computed)
    features = TowerFeatures(batch.hidden, units[0].grid, computed, batch.kept_in_tower, batch.planes)
    rows = [unit.rows[0] for unit in units]
    if rows == list(range(batch.num_inputs)):
        return features
    if rows == list(range(rows[0], rows[-1] + 1)):
        return features.mapped(lambda tensor: tensor[rows[0] : rows[-1] + 1])
    index = to_device(torch.tensor(rows), batch.hidden.device)
    return features.mapped(lambda tensor: tensor[index])


def _gather_patches(units: Sequence[PruningUnit], computed: dict[TowerOutput, Tensor]) -> TowerFeatures:
    """Features of units of one tower batch whose `patches` are given: tiles with padding, and joint units."""
    batch, device = units[0].batch, units[0].batch.hidden.device
    rows = np.array([unit.rows for unit in units])  # [G, t]
    patches = np.stack([unit.patches for unit in units if unit.patches is not None])  # [G, N]
    row_of_patch = np.take_along_axis(rows, patches // batch.num_patches, axis=1)
    index = to_device(torch.from_numpy(np.stack([row_of_patch, patches % batch.num_patches])), device)
    at = (index[0], index[1])
    row_index = to_device(torch.from_numpy(rows), device)

    def taken(output: TowerOutput, values: Tensor) -> Tensor:
        if output == CLS_HIDDEN:
            return values[row_index].mean(dim=1)
        if not output.has_cls:
            return values[at]
        cls = values[row_index, 0].mean(dim=1, keepdim=True)
        return torch.cat([cls, values[index[0], index[1] + 1]], dim=1)

    return TowerFeatures(
        batch.hidden[at],
        units[0].grid,
        {output: taken(output, values) for output, values in computed.items()},
        planes=None if batch.planes is None else batch.planes.transpose(1, 2)[at].transpose(1, 2),
    )
