"""Units of pruning: a unit is one tower input of an image or video, or several that are pruned as one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from encoder_service.engine.request_media import RequestMedia
from encoder_service.models.media_features import IntArray
from encoder_service.pruners.base import BoundPruner, PrunedTokens, TowerFeatures
from fovea.modeling.transfers import to_device

__all__ = ["PruningUnit", "frame_joint_unit", "tile_joint_unit", "units_of"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PruningUnit:
    """Patches that are pruned together: those of one tower input, or of several joined into one.

    The CLS vector of a joint unit is the mean over its tower inputs. Saliency is not averaged: each patch has that of
    its own input's CLS. An input with concentrated attention keeps more tokens than one with spread attention.

    Attributes:
        media: Image or video of the unit.
        number: Index among the units of the image or video.
        batch: Features that the rows belong to.
        rows: Rows of the tower inputs.
        patches: Indices into the patches of `rows`, one tower input after the other, [N]; None for all patches of one
            tower input.
        positions: Grid position of each patch in the image or video, [N].
        grid: Height and width of the unit's grid; N is their product.
        keep: Number of tokens to keep; N until a budget is allocated.
        tokens: Result of the pruner for the unit's group; None before it is pruned, and if it keeps no token.
        tokens_row: Row of the unit in `tokens`.
    """

    media: RequestMedia
    number: int = 0
    batch: TowerFeatures
    rows: tuple[int, ...]
    patches: IntArray | None = None
    positions: IntArray
    grid: tuple[int, int]
    keep: int
    tokens: PrunedTokens | None = None
    tokens_row: int = 0

    @property
    def pruner(self) -> BoundPruner:
        """Pruner of the request."""
        return self.media.request.pruner

    @property
    def seed(self) -> int:
        """Seed of random choices: that of the image or video for its first unit, the next integer for each further."""
        return self.media.seed + self.number

    @property
    def num_patches(self) -> int:
        """N."""
        return len(self.positions)

    @property
    def num_kept_in_tower(self) -> int | None:
        """Number of patches that the tower has kept; None if it was not pruned."""
        return None if self.batch.kept_in_tower is None else self.batch.kept_in_tower.shape[-1]

    @property
    def pruned(self) -> PrunedTokens:
        """`tokens` of a unit that is pruned and keeps some."""
        assert self.tokens is not None
        return self.tokens

    @property
    def num_tokens(self) -> int:
        """Number of tokens after pruning."""
        if self.tokens is None:
            return 0
        counts = self.tokens.counts
        return self.tokens.origins.shape[-1] if counts is None else counts[self.tokens_row]


def units_of(media: RequestMedia) -> list[PruningUnit]:
    """One unit for each tower input that is not all padding, without its padding.

    The patches of a tile that are not padding form a rectangle; its height and width are the unit's grid.
    """
    features = media.unpruned
    layout, rows_of_inputs = features.layout, zip(features.rows, features.patch_positions(), strict=True)
    size, units = layout.rows * layout.columns, []
    for number, (row, positions) in enumerate(rows_of_inputs):
        batch, rows, patches, grid = features.batch, (row,), None, (layout.rows, layout.columns)
        if len(positions) < size:
            patches = positions % size
            num_rows = len(np.unique(patches // layout.columns))
            grid = (num_rows, len(patches) // num_rows)
            if batch.kept_in_tower is not None:
                batch, rows, patches = _without_padding(batch, row, patches, grid), (0,), None
        units.append(
            PruningUnit(
                media=media,
                number=number,
                batch=batch,
                rows=rows,
                patches=patches,
                positions=positions,
                grid=grid,
                keep=len(positions),
            )
        )
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


def frame_joint_unit(video: RequestMedia) -> PruningUnit:
    """The frames of a video as one unit, stacked vertically.

    Raises:
        ValueError: The frames were pruned inside the tower.
    """
    features = video.unpruned
    if features.batch.kept_in_tower is not None:
        raise ValueError("frames that were pruned inside the tower cannot be joined")
    positions = np.concatenate(features.patch_positions())
    grid = (len(features.rows) * features.layout.rows, features.layout.columns)
    return _joint_unit(video, np.arange(len(positions)), positions, grid)


def tile_joint_unit(image: RequestMedia) -> PruningUnit:
    """The tiles of an image as one unit: a single row of patches, in the order of the language model."""
    features = image.unpruned
    layout = features.layout
    assert layout.mosaic is not None
    size = layout.rows * layout.columns
    positions = np.concatenate([np.arange(size), layout.mosaic.ravel()])
    patches = features.index_of_tiles()[positions // size] * size + positions % size
    return _joint_unit(image, patches, positions, (1, len(positions)))


def _joint_unit(media: RequestMedia, patches: IntArray, positions: IntArray, grid: tuple[int, int]) -> PruningUnit:
    return PruningUnit(
        media=media,
        batch=media.unpruned.batch,
        rows=media.unpruned.rows,
        patches=patches,
        positions=positions,
        grid=grid,
        keep=len(positions),
    )
