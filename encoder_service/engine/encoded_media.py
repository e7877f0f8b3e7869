"""Visual tokens of an image or video, assembled from its pruned tiles or frames in reading order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder_service.engine.wire_values import TokenValues, is_float32, joined
from encoder_service.models.media_features import IntArray, PatchLayout
from encoder_service.pruners.grid_positions import grid_positions
from fovea.wire.quantized import Quantized
from fovea.wire.tensors import Float16Array, Float32Array

__all__ = ["EncodedMedia", "UnitTokens", "assemble"]

_Map = npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """Visual tokens of an image or video, as numpy arrays.

    Attributes:
        values: K tokens in the order in which the language model reads them, in the wire format to which the device
            has converted them.
        positions: [K] int64, grid positions as on the wire, all different.
        newline_after: Indices of the tokens after which a row of the mosaic ends, ascending. An index is repeated if
            several rows end there.
        cluster_of_patch: [num_patches] int64, index of the token that a patch is or was merged into; -1 if it was
            dropped or is padding.
        task_map, saliency_map: [num_patches] float32, 0 at padding; None if the pruner has no such map.
        layout: Grid of the patches.
        num_tokens_total: Number of visual tokens before pruning.
        features_cached: Whether the features come from the cache.
    """

    values: TokenValues
    positions: npt.NDArray[np.int64]
    newline_after: npt.NDArray[np.int64]
    cluster_of_patch: npt.NDArray[np.int64]
    task_map: _Map
    saliency_map: _Map
    layout: PatchLayout
    num_tokens_total: int
    features_cached: bool

    @property
    def features(self) -> Float32Array:
        """The tokens, [K, C] float32.

        Raises:
            ValueError: The device has converted them to another wire format.
        """
        if is_float32(self.values):
            return self.values
        raise ValueError("the tokens have been converted to a wire format other than float32")

    @property
    def converted(self) -> Float16Array | Quantized | None:
        """The tokens as the device has converted them; None if they are float32."""
        if isinstance(self.values, Quantized):
            return self.values
        return None if is_float32(self.values) else self.values.astype(np.float16, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class UnitTokens:
    """Tokens of one unit of pruning, copied to the CPU; see `PrunedTokens` for the arrays.

    Attributes:
        patch_positions: Grid positions of the unit's patches, [N].
        values: K tokens, in the same wire format as those of the other units.
        origins: [K] int64.
        cluster_of_patch: [N] int64.
        task_map, saliency_map: [N] float32; None if the pruner has no such map.
        reading_group: [K] int64; None for group 0.
    """

    patch_positions: IntArray
    values: TokenValues
    origins: IntArray
    cluster_of_patch: IntArray
    task_map: _Map = None
    saliency_map: _Map = None
    reading_group: IntArray | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all patches are there, in their order."""
        return np.array_equal(self.origins, np.arange(len(self.patch_positions)))


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    """Visual tokens of all tower inputs: values of K tokens, [K] positions, [num_patches] clusters."""

    values: TokenValues
    positions: IntArray
    cluster_of_patch: IntArray


def assemble(
    layout: PatchLayout,
    units: Sequence[UnitTokens | None],
    *,
    cls_tokens: TokenValues | None = None,
    features_cached: bool = False,
) -> EncodedMedia:
    """Visual tokens of an image or video from those of its units.

    If no unit is pruned, the result is what the unsplit model reads, including CLS tokens and newlines. Pruned media
    have neither.

    Args:
        layout: Grid of the patches.
        units: Tokens of each unit after pruning; None for a unit that keeps none.
        cls_tokens: CLS tokens that the language model reads if nothing is pruned, num_inputs * cls_per_input.
        features_cached: Whether the features come from the cache.
    """
    kept = [unit for unit in units if unit is not None]
    is_whole = len(kept) == len(units) and all(unit.is_whole for unit in kept)
    tokens = _in_reading_order(layout, units, is_whole=is_whole)
    if is_whole and cls_tokens is not None:
        tokens = _with_cls_tokens(tokens, cls_tokens, layout)
    return EncodedMedia(
        values=tokens.values,
        positions=tokens.positions,
        newline_after=_newline_after(layout) if is_whole else np.empty(0, np.int64),
        cluster_of_patch=tokens.cluster_of_patch,
        task_map=_joint_map(layout, [(unit.task_map, unit.patch_positions) for unit in kept]),
        saliency_map=_joint_map(layout, [(unit.saliency_map, unit.patch_positions) for unit in kept]),
        layout=layout,
        num_tokens_total=_num_patches(layout) + layout.num_inputs * layout.cls_per_input,
        features_cached=features_cached,
    )


def _num_patches(layout: PatchLayout) -> int:
    """Number of patches without padding."""
    return layout.num_patches if layout.mosaic is None else layout.rows * layout.columns + layout.mosaic.size


def _in_reading_order(layout: PatchLayout, units: Sequence[UnitTokens | None], *, is_whole: bool) -> _Tokens:
    """Tokens of all units in the order in which the language model reads them."""
    cluster_of_patch = np.full(layout.num_patches, -1, np.int64)
    values: list[TokenValues] = []
    positions: list[IntArray] = []
    groups: list[IntArray] = []
    count = 0
    for index, unit in enumerate(units):
        if unit is None:
            continue
        groups.append(_reading_groups(unit, is_base=index == 0, is_whole=is_whole))
        clusters = unit.cluster_of_patch
        cluster_of_patch[unit.patch_positions] = np.where(clusters >= 0, clusters + count, clusters)
        values.append(unit.values)
        positions.append(unit.patch_positions[grid_positions(unit.origins, len(unit.patch_positions))])
        count += len(unit.values)
    all_positions = np.concatenate(positions)
    if layout.mosaic is None:
        return _Tokens(joined(values), all_positions, cluster_of_patch)
    order = _mosaic_order(all_positions, np.concatenate(groups), layout.num_patches, layout.mosaic)
    index_in_order = np.empty_like(order)
    index_in_order[order] = np.arange(len(order))
    return _Tokens(
        joined(values)[order],
        all_positions[order],
        np.where(cluster_of_patch >= 0, index_in_order[cluster_of_patch], cluster_of_patch),
    )


def _reading_groups(unit: UnitTokens, *, is_base: bool, is_whole: bool) -> IntArray:
    """Reading group of each token: -1 for the base tile, which comes first, else `PrunedTokens.reading_group`."""
    if is_base:
        return np.full_like(unit.origins, -1)
    if is_whole or unit.reading_group is None:
        return np.zeros_like(unit.origins)
    return unit.reading_group


def _mosaic_order(positions: IntArray, groups: IntArray, num_patches: int, mosaic: IntArray) -> IntArray:
    """Indices of the tokens of an image in tiles in reading order: by group, group 0 in raster order of the mosaic."""
    rank = np.zeros(num_patches, np.int64)
    rank[mosaic.ravel()] = np.arange(mosaic.size)
    in_group = np.where(groups == 0, rank[positions], 0)
    return np.lexsort((in_group, groups))  # stable: other groups keep their order


def _newline_after(layout: PatchLayout) -> IntArray:
    """Index of the last token of each row of the mosaic of an unpruned image; repeated for rows without a patch."""
    if layout.mosaic is None:
        return np.empty(0, np.int64)
    num_rows, num_columns = layout.mosaic.shape
    return np.asarray(layout.rows * layout.columns - 1 + num_columns * np.arange(1, num_rows + 1), np.int64)


def _with_cls_tokens(tokens: _Tokens, cls_tokens: TokenValues, layout: PatchLayout) -> _Tokens:
    """`tokens` with the CLS tokens of each frame before its patches."""
    frames, patches, count = layout.num_inputs, layout.rows * layout.columns, layout.cls_per_input
    cls_after_patches = layout.num_patches + np.arange(frames * count).reshape(frames, count)
    patch_order = np.arange(layout.num_patches).reshape(frames, patches)
    positions = np.concatenate([cls_after_patches, tokens.positions.reshape(frames, patches)], axis=1)
    order = np.concatenate([cls_after_patches, patch_order], axis=1).ravel()
    return _Tokens(
        joined([tokens.values, cls_tokens])[order],
        positions.ravel(),
        tokens.cluster_of_patch + count * (1 + np.arange(layout.num_patches) // patches),
    )


def _joint_map(layout: PatchLayout, maps: Sequence[tuple[_Map, IntArray]]) -> _Map:
    """Scores of all patches from the maps of the units and the positions of their patches; None if none has a map."""
    if all(scores is None for scores, _ in maps):
        return None
    joint = np.zeros(layout.num_patches, np.float32)
    for scores, positions in maps:
        if scores is not None:
            joint[positions] = scores
    return joint
