"""Assembly: visual tokens of an image or video from those of its pruned units, in reading order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.host_copies import HostCopies
from encoder_service.engine.pruning_units import PruningUnit
from encoder_service.engine.wire_values import TokenValues, TokenVectors, joined
from encoder_service.models.media_features import IntArray, PatchLayout
from encoder_service.pruners.base import PrunedTokens
from encoder_service.pruners.grid_positions import grid_positions

__all__ = ["assemble", "tensors_to_copy"]

_Map = npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    """Visual tokens of all units: values of K tokens and of their planes, [K] positions, [num_patches] clusters."""

    vectors: TokenVectors
    positions: IntArray
    cluster_of_patch: IntArray


def tensors_to_copy(tokens: PrunedTokens) -> tuple[Tensor | None, ...]:
    """Tensors of a group that `assemble` reads on the CPU; None where the pruner has none."""
    return tokens.origins, tokens.cluster_of_patch, tokens.task_map, tokens.saliency_map, tokens.reading_group


def assemble(
    units: Sequence[PruningUnit],
    vectors: Sequence[TokenVectors],
    arrays: HostCopies,
    *,
    cls_values: TokenValues | None = None,
) -> EncodedMedia:
    """Visual tokens of an image or video from those of its units.

    If no unit is pruned, the result is what the unsplit model reads, including CLS tokens and newlines. Pruned media
    have neither.

    Args:
        units: All units of the image or video after pruning.
        vectors: Tokens of each unit that keeps any, all in the same wire format.
        arrays: Copies of `tensors_to_copy` of all units.
        cls_values: CLS tokens that the language model reads if nothing is pruned, num_inputs * cls_per_input.
    """
    layout = units[0].media.unpruned.layout
    kept = [unit for unit in units if unit.tokens is not None]
    is_whole = len(kept) == len(units) and all(_is_whole(unit, arrays) for unit in kept)
    tokens = _in_reading_order(layout, kept, vectors, arrays, is_whole=is_whole)
    if is_whole and cls_values is not None:
        tokens = _with_cls_tokens(tokens, cls_values, layout)
    return EncodedMedia(
        values=tokens.vectors[0],
        planes=tokens.vectors[1:],
        positions=tokens.positions,
        newline_after=_newline_after(layout) if is_whole else np.empty(0, np.int64),
        cluster_of_patch=tokens.cluster_of_patch,
        task_map=_joint_map(layout, kept, [unit.pruned.task_map for unit in kept], arrays),
        saliency_map=_joint_map(layout, kept, [unit.pruned.saliency_map for unit in kept], arrays),
        layout=layout,
        num_tokens_total=_num_patches(layout) + layout.num_inputs * layout.cls_per_input,
        features_cached=units[0].media.features_cached,
    )


def _num_patches(layout: PatchLayout) -> int:
    """Number of patches without padding."""
    return layout.num_patches if layout.mosaic is None else layout.rows * layout.columns + layout.mosaic.size


def _of_tokens(unit: PruningUnit, tensor: Tensor, arrays: HostCopies) -> IntArray:
    """Value of each token of a unit in a tensor of its group."""
    values: IntArray = arrays[tensor][unit.tokens_row][: unit.num_tokens]
    return values


def _is_whole(unit: PruningUnit, arrays: HostCopies) -> bool:
    """Whether all patches are there, in their order."""
    return np.array_equal(_of_tokens(unit, unit.pruned.origins, arrays), np.arange(unit.num_patches))


def _in_reading_order(
    layout: PatchLayout,
    units: Sequence[PruningUnit],
    vectors: Sequence[TokenVectors],
    arrays: HostCopies,
    *,
    is_whole: bool,
) -> _Tokens:
    """Tokens of all units in the order in which the language model reads them."""
    cluster_of_patch = np.full(layout.num_patches, -1, np.int64)
    positions: list[IntArray] = []
    groups: list[IntArray] = []
    count = 0
    for unit in units:
        origins = _of_tokens(unit, unit.pruned.origins, arrays)
        groups.append(_reading_groups(unit, arrays, is_whole=is_whole))
        clusters = arrays[unit.pruned.cluster_of_patch][unit.tokens_row]
        cluster_of_patch[unit.positions] = np.where(clusters >= 0, clusters + count, clusters)
        positions.append(unit.positions[grid_positions(origins, unit.num_patches)])
        count += unit.num_tokens
    all_positions = np.concatenate(positions)
    all_vectors = tuple(joined(parts) for parts in zip(*vectors, strict=True))
    if layout.mosaic is None:
        return _Tokens(all_vectors, all_positions, cluster_of_patch)
    order = _mosaic_order(all_positions, np.concatenate(groups), layout.num_patches, layout.mosaic)
    index_in_order = np.empty_like(order)
    index_in_order[order] = np.arange(len(order))
    return _Tokens(
        tuple(values[order] for values in all_vectors),
        all_positions[order],
        np.where(cluster_of_patch >= 0, index_in_order[cluster_of_patch], cluster_of_patch),
    )


def _reading_groups(unit: PruningUnit, arrays: HostCopies, *, is_whole: bool) -> IntArray:
    """Reading group of each token: -1 for the base tile, which comes first, else `PrunedTokens.reading_group`."""
    if unit.number == 0:
        return np.full(unit.num_tokens, -1)
    if is_whole or unit.pruned.reading_group is None:
        return np.zeros(unit.num_tokens, np.int64)
    return _of_tokens(unit, unit.pruned.reading_group, arrays)


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


def _with_cls_tokens(tokens: _Tokens, cls_values: TokenValues, layout: PatchLayout) -> _Tokens:
    """`tokens`, which have no planes, with the CLS tokens of each frame before its patches."""
    frames, patches, count = layout.num_inputs, layout.rows * layout.columns, layout.cls_per_input
    cls_after_patches = layout.num_patches + np.arange(frames * count).reshape(frames, count)
    patch_order = np.arange(layout.num_patches).reshape(frames, patches)
    positions = np.concatenate([cls_after_patches, tokens.positions.reshape(frames, patches)], axis=1)
    order = np.concatenate([cls_after_patches, patch_order], axis=1).ravel()
    return _Tokens(
        (joined([tokens.vectors[0], cls_values])[order],),
        positions.ravel(),
        tokens.cluster_of_patch + count * (1 + np.arange(layout.num_patches) // patches),
    )


def _joint_map(
    layout: PatchLayout, units: Sequence[PruningUnit], maps: Sequence[Tensor | None], arrays: HostCopies
) -> _Map:
    """Scores of all patches from the maps of the units; None if none has a map."""
    if all(scores is None for scores in maps):
        return None
    joint = np.zeros(layout.num_patches, np.float32)
    for unit, scores in zip(units, maps, strict=True):
        if scores is not None:
            joint[unit.positions] = arrays[scores][unit.tokens_row]
    return joint
