"""Visual tokens of an image or video, assembled from its pruned tiles or frames in reading order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.media_features import MediaFeatures, PatchLayout
from encoder_service.pruners.base import PrunedTokens
from encoder_service.pruners.grid_positions import with_grid_positions

__all__ = ["EncodedMedia", "assemble"]

_Map = npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """Visual tokens of an image or video, as numpy arrays.

    Attributes:
        features: [K, C] float32, in the order in which the language model reads them.
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

    features: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]
    newline_after: npt.NDArray[np.int64]
    cluster_of_patch: npt.NDArray[np.int64]
    task_map: _Map
    saliency_map: _Map
    layout: PatchLayout
    num_tokens_total: int
    features_cached: bool


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Visual tokens of all tower inputs: [K, C] features, [K] positions, [num_patches] clusters."""

    features: Tensor
    positions: Tensor
    cluster_of_patch: Tensor


def assemble(
    media: MediaFeatures, pruned: Sequence[PrunedTokens | None], *, features_cached: bool = False
) -> EncodedMedia:
    """Visual tokens of an image or video from those of its tower inputs.

    If no tower input is pruned, the result is what the unsplit model reads, including CLS tokens and newlines. Pruned
    media have neither.

    Args:
        media: Features before pruning.
        pruned: Tokens of each tower input after pruning; None if there are none.
        features_cached: Whether the features come from the cache.
    """
    layout = media.layout
    is_whole = _is_whole(media, pruned)
    tokens = _in_reading_order(media, pruned, is_whole=is_whole)
    if is_whole and media.cls_tokens is not None:
        tokens = _with_cls_tokens(tokens, media.cls_tokens, layout)
    return EncodedMedia(
        features=_float32(tokens.features),
        positions=tokens.positions.numpy(),
        newline_after=_newline_after(layout).numpy() if is_whole else np.empty(0, np.int64),
        cluster_of_patch=tokens.cluster_of_patch.numpy(),
        task_map=_joint_map([None if t is None else t.task_map for t in pruned], media),
        saliency_map=_joint_map([None if t is None else t.saliency_map for t in pruned], media),
        layout=layout,
        num_tokens_total=media.num_patches + layout.num_inputs * layout.cls_per_input,
        features_cached=features_cached,
    )


def _is_whole(media: MediaFeatures, pruned: Sequence[PrunedTokens | None]) -> bool:
    """Whether every tower input still has all its patches, in their order."""
    return all(
        tokens is not None and torch.equal(tokens.origins.cpu(), torch.arange(len(positions)))
        for tokens, positions in zip(pruned, media.patch_positions, strict=True)
    )


def _in_reading_order(media: MediaFeatures, pruned: Sequence[PrunedTokens | None], *, is_whole: bool) -> _Tokens:
    """Tokens of all tower inputs in the order in which the language model reads them."""
    cluster_of_patch = torch.full((media.layout.num_patches,), -1, dtype=torch.int64)
    features: list[Tensor] = []
    positions: list[Tensor] = []
    groups: list[Tensor] = []
    count = 0
    for index, (tokens, patch_positions) in enumerate(zip(pruned, media.patch_positions, strict=True)):
        if tokens is None:
            continue
        tokens = with_grid_positions(tokens)
        groups.append(_reading_groups(tokens, is_base=index == 0, is_whole=is_whole))
        clusters = tokens.cluster_of_patch.cpu()
        cluster_of_patch[patch_positions] = torch.where(clusters >= 0, clusters + count, clusters)
        features.append(tokens.features)
        positions.append(patch_positions[tokens.origins.cpu()])
        count += len(tokens.features)
    order = _reading_order(torch.cat(positions), torch.cat(groups), media.layout)
    index_in_order = torch.empty_like(order)
    index_in_order[order] = torch.arange(len(order))
    return _Tokens(
        torch.cat(features)[order.to(features[0].device)],
        torch.cat(positions)[order],
        torch.where(cluster_of_patch >= 0, index_in_order[cluster_of_patch.clamp_min(0)], cluster_of_patch),
    )


def _reading_groups(tokens: PrunedTokens, *, is_base: bool, is_whole: bool) -> Tensor:
    """Reading group of each token: -1 for the base tile, which comes first, else `PrunedTokens.reading_group`."""
    if is_base:
        return torch.full_like(tokens.origins, -1, device="cpu")
    if is_whole or tokens.reading_group is None:
        return torch.zeros_like(tokens.origins, device="cpu")
    return tokens.reading_group.cpu()


def _reading_order(positions: Tensor, groups: Tensor, layout: PatchLayout) -> Tensor:
    """Indices of the tokens in reading order: for tiles by group, with group 0 in raster order of the mosaic."""
    if layout.mosaic is None:
        return torch.arange(len(positions))
    rank = torch.zeros(layout.num_patches, dtype=torch.int64)
    rank[layout.mosaic.flatten()] = torch.arange(layout.mosaic.numel())
    by_mosaic_row = torch.sort(torch.where(groups == 0, rank[positions], 0), stable=True).indices
    return by_mosaic_row[torch.sort(groups[by_mosaic_row], stable=True).indices]


def _newline_after(layout: PatchLayout) -> Tensor:
    """Index of the last token of each row of the mosaic of an unpruned image; repeated for rows without a patch."""
    if layout.mosaic is None:
        return torch.empty(0, dtype=torch.int64)
    num_rows, num_columns = layout.mosaic.shape
    return layout.rows * layout.columns - 1 + num_columns * torch.arange(1, num_rows + 1)


def _with_cls_tokens(tokens: _Tokens, cls_tokens: Tensor, layout: PatchLayout) -> _Tokens:
    """`tokens` with the CLS tokens of each frame before its patches."""
    patches, count = layout.rows * layout.columns, layout.cls_per_input
    by_frame = tokens.features.view(layout.num_inputs, patches, -1)
    cls = cls_tokens.to(tokens.features).view(layout.num_inputs, count, -1)
    cls_positions = layout.num_patches + torch.arange(layout.num_inputs * count).view(layout.num_inputs, count)
    return _Tokens(
        torch.cat([cls, by_frame], dim=1).flatten(0, 1),
        torch.cat([cls_positions, tokens.positions.view(layout.num_inputs, patches)], dim=1).flatten(),
        tokens.cluster_of_patch + count * (1 + torch.arange(layout.num_patches) // patches),
    )


def _joint_map(maps: Sequence[Tensor | None], media: MediaFeatures) -> _Map:
    """Scores of all patches from the maps of the tower inputs; None if no tower input has a map."""
    if all(scores is None for scores in maps):
        return None
    joint = np.zeros(media.layout.num_patches, np.float32)
    for scores, positions in zip(maps, media.patch_positions, strict=True):
        if scores is not None:
            joint[positions.numpy()] = _float32(scores)
    return joint


def _float32(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(tensor.to("cpu", torch.float32).numpy())
