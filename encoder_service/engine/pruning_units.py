"""Units of pruning, gathered into batches: a unit is one tower input, or several that are pruned as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from encoder_service.models.media_features import IntArray, MediaFeatures
from encoder_service.pruners.base import BoundPruner, PrunerInput, TextFeatures, TowerFeatures
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, TowerOutput
from fovea.modeling.transfers import to_device

__all__ = [
    "PruningTask",
    "PruningUnit",
    "TextRow",
    "frame_joint_unit",
    "gather",
    "grouped",
    "tile_joint_unit",
    "units_of",
]


@dataclass(frozen=True, slots=True)
class TextRow:
    """Features of one question: a row of a batch that the text tower computed."""

    batch: TextFeatures
    row: int


@dataclass(frozen=True, slots=True, eq=False)
class PruningUnit:
    """Patches that are pruned together: those of one tower input, or of several joined into one.

    The CLS vector of a joint unit is the mean over its tower inputs. Saliency is not averaged: each patch has that of
    its own input's CLS. An input with concentrated attention keeps more tokens than one with spread attention.

    Attributes:
        batch: Features that the rows belong to.
        rows: Rows of the tower inputs.
        patches: Indices into the patches of `rows`, one tower input after the other, [N]; None for all patches of one
            tower input.
        positions: Grid position of each patch in the image or video, [N].
        grid: Height and width of the unit's grid; N is their product.
    """

    batch: TowerFeatures
    rows: tuple[int, ...]
    patches: IntArray | None
    positions: IntArray
    grid: tuple[int, int]

    @property
    def num_patches(self) -> int:
        """N."""
        return len(self.positions)

    @property
    def num_kept_in_tower(self) -> int | None:
        """Number of patches that the tower has kept; None if it was not pruned."""
        return None if self.batch.kept_in_tower is None else self.batch.kept_in_tower.shape[-1]


def units_of(media: MediaFeatures) -> list[PruningUnit]:
    """One unit for each tower input that is not all padding, without its padding.

    The patches of a tile that are not padding form a rectangle; its height and width are the unit's grid.
    """
    layout = media.layout
    size, units = layout.rows * layout.columns, []
    for row, positions in zip(media.rows, media.patch_positions(), strict=True):
        if len(positions) == size:
            units.append(PruningUnit(media.batch, (row,), None, positions, (layout.rows, layout.columns)))
            continue
        patches = positions % size
        num_rows = len(np.unique(patches // layout.columns))
        grid = (num_rows, len(patches) // num_rows)
        if media.batch.kept_in_tower is None:
            units.append(PruningUnit(media.batch, (row,), patches, positions, grid))
        else:
            units.append(PruningUnit(_without_padding(media.batch, row, patches, grid), (0,), None, positions, grid))
    return units


def _without_padding(batch: TowerFeatures, row: int, patches: IntArray, grid: tuple[int, int]) -> TowerFeatures:
    """Row of a batch that was pruned inside the tower, without the kept patches that are padding.

    How many patches that leaves depends on the image, so indices are copied to the CPU here, image by image.
    """
    assert batch.kept_in_tower is not None
    kept = batch.kept_in_tower[row].cpu().numpy()
    new_index = np.full(batch.num_patches, -1)
    new_index[patches] = np.arange(len(patches))
    remains = np.flatnonzero(new_index[kept] >= 0)
    index = to_device(torch.from_numpy(remains), batch.hidden.device)
    kept_of_patches = torch.from_numpy(new_index[kept][remains])
    return TowerFeatures(
        batch.hidden[row, index][None], grid, {}, to_device(kept_of_patches, batch.hidden.device)[None]
    )


def frame_joint_unit(video: MediaFeatures) -> PruningUnit:
    """The frames of a video as one unit, stacked vertically.

    Raises:
        ValueError: The frames were pruned inside the tower.
    """
    if video.batch.kept_in_tower is not None:
        raise ValueError("frames that were pruned inside the tower cannot be joined")
    layout, positions = video.layout, np.concatenate(video.patch_positions())
    grid = (len(video.rows) * layout.rows, layout.columns)
    return PruningUnit(video.batch, video.rows, np.arange(len(positions)), positions, grid)


def tile_joint_unit(image: MediaFeatures) -> PruningUnit:
    """The tiles of an image as one unit: a single row of patches, in the order of the language model."""
    layout = image.layout
    assert layout.mosaic is not None
    size = layout.rows * layout.columns
    positions = np.concatenate([np.arange(size), layout.mosaic.ravel()])
    patches = image.index_of_tiles()[positions // size] * size + positions % size
    return PruningUnit(image.batch, image.rows, patches, positions, (1, len(positions)))


_GroupKey: TypeAlias = tuple[object, ...]

_MAX_VALUES: Final = 2**26
"""Largest number of values in a call with several tasks, roughly: 256 MiB in float32. A single task may have more."""
_PER_TEXT_POSITION: Final = 6
"""Number of [patches, text positions] matrices that FCMA (`pruners/fcma.py`) holds at once."""


@dataclass(frozen=True, slots=True, eq=False)
class PruningTask:
    """Unit of pruning with its pruner, budget, text and seed.

    Attributes:
        unit: The unit.
        pruner: Pruner of the unit's request.
        keep: Number of tokens to keep.
        text: Features of the request's question; None if the pruner reads none.
        seed: Seed of random choices.
    """

    unit: PruningUnit
    pruner: BoundPruner
    keep: int
    text: TextRow | None
    seed: int

    @property
    def key(self) -> _GroupKey:
        """Key of the group: tasks with equal keys can be pruned as one batch."""
        unit, text = self.unit, self.text
        return (
            self.pruner,
            unit.grid,
            self.keep,
            unit.num_kept_in_tower,
            unit.patches is None,
            len(unit.rows),
            None if text is None else id(text.batch),
        )

    @property
    def num_values(self) -> int:
        """Number of values that a pruner computes for the task, roughly: features, similarities, and text."""
        num_patches, channels = self.unit.num_patches, self.unit.batch.hidden.shape[-1]
        text_values, positions = 0, 0
        if self.text is not None:
            positions = self.text.batch.tokens.shape[1]
            text_values = positions * self.text.batch.tokens.shape[2]
        return num_patches * (channels + self.keep + _PER_TEXT_POSITION * positions) + text_values


def grouped(tasks: Iterable[PruningTask]) -> list[list[PruningTask]]:
    """Groups of tasks that can be pruned as one batch; tasks of one tower batch are next to each other.

    A group of more than `_MAX_VALUES` values is split.
    """
    groups: dict[_GroupKey, list[PruningTask]] = {}
    for task in tasks:
        groups.setdefault(task.key, []).append(task)
    parts: list[list[PruningTask]] = []
    for group in groups.values():
        in_order = [task for of_batch in _by_tower_batch(group) for task in of_batch]
        at_once = max(1, _MAX_VALUES // in_order[0].num_values)
        parts += [in_order[start : start + at_once] for start in range(0, len(in_order), at_once)]
    return parts


def _by_tower_batch(tasks: Sequence[PruningTask]) -> list[list[PruningTask]]:
    by_batch: dict[int, list[PruningTask]] = {}
    for task in tasks:
        by_batch.setdefault(id(task.unit.batch), []).append(task)
    return list(by_batch.values())


def gather(tasks: Sequence[PruningTask], *, outputs: Set[TowerOutput] | None = None) -> PrunerInput:
    """Input of the pruner for a group of tasks.

    Args:
        tasks: A group, see `grouped`.
        outputs: Tower outputs to include; None for those that the pruner requires.
    """
    first = tasks[0]
    outputs = first.pruner.requirements.outputs if outputs is None else outputs
    parts = [_gather_units([task.unit for task in of_batch], outputs) for of_batch in _by_tower_batch(tasks)]
    texts = [task.text for task in tasks if task.text is not None]
    return PrunerInput(
        _concatenated(parts), first.keep, _gather_texts(texts) if texts else None, [task.seed for task in tasks]
    )


def _concatenated(parts: Sequence[TowerFeatures]) -> TowerFeatures:
    if len(parts) == 1:
        return parts[0]
    kept = [part.kept_in_tower for part in parts if part.kept_in_tower is not None]
    return TowerFeatures(
        torch.cat([part.hidden for part in parts]),
        parts[0].grid,
        {output: torch.cat([part.outputs[output] for part in parts]) for output in sorted(parts[0].outputs)},
        torch.cat(kept) if kept else None,
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
    features = TowerFeatures(batch.hidden, units[0].grid, computed, batch.kept_in_tower)
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
        batch.hidden[at], units[0].grid, {output: taken(output, values) for output, values in computed.items()}
    )
