"""The parts of a picture or video, pruned one by one, put together as the language model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.pruners.base import PrunedTokens
from encoder_service.pruners.grid_positions import with_grid_positions
from encoder_service.visual import MediaFeatures, PatchLayout

__all__ = ["EncodedMedia", "assemble"]

_Maps = npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """The visual tokens of a picture or video, in numpy.

    Attributes:
        features: [K, C] float32 in the order in which the language model reads them.
        positions: [K] int64, as on the wire: patches of the layout, all different.
        newline_after: Rows after which a line of the mosaic ends, ascending; the same row once for each line that ends
            there.
        merged_into: [num_patches] int64, for each patch of the layout the row that it is or was merged into; -1:
            dropped, or padding.
        task_map, saliency_map: [num_patches] float32, 0 at padding; None where the pruner has no such map.
        layout: How the patches lie.
        num_tokens_total: Before pruning.
        features_cached: The tower did not run.
    """

    features: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]
    newline_after: npt.NDArray[np.int64]
    cluster_of_patch: npt.NDArray[np.int64]
    task_map: _Maps
    saliency_map: _Maps
    layout: PatchLayout
    num_tokens_total: int
    features_cached: bool


def assemble(
    visual: MediaFeatures, pruned: Sequence[PrunedTokens | None], *, features_cached: bool = False
) -> EncodedMedia:
    """Joins the pruned parts.

    Where every part is whole the result is what the unsplit model reads, CLS rows and ends of lines included; a pruned
    one has neither.

    Args:
        visual: Before pruning.
        pruned: For each of its parts what is left; None for nothing.
        features_cached: Passed on.
    """
    layout = visual.layout
    is_whole = all(
        tokens is not None and torch.equal(tokens.origins.cpu(), torch.arange(len(places)))
        for tokens, places in zip(pruned, visual.places, strict=True)
    )
    cluster_of_patch = torch.full((layout.num_patches,), -1, dtype=torch.int64)
    rows: list[Tensor] = []
    positions: list[Tensor] = []
    groups: list[Tensor] = []
    count = 0
    for part, (tokens, places) in enumerate(zip(pruned, visual.places, strict=True)):
        if tokens is None:
            continue
        tokens = with_grid_positions(tokens)
        groups.append(_reading_groups(tokens, is_base=part == 0, is_whole=is_whole))
        clusters = tokens.cluster_of_patch.cpu()
        cluster_of_patch[places] = torch.where(clusters >= 0, clusters + count, clusters)
        rows.append(tokens.features)
        positions.append(places[tokens.origins.cpu()])
        count += len(tokens.features)
    order = _reading_order(torch.cat(positions), torch.cat(groups), layout)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    features, numbers = torch.cat(rows)[order.to(rows[0].device)], torch.cat(positions)[order]
    cluster_of_patch = torch.where(cluster_of_patch >= 0, place[cluster_of_patch.clamp_min(0)], cluster_of_patch)
    if is_whole and visual.cls_rows is not None:
        features, numbers, cluster_of_patch = _with_cls_rows(
            features, numbers, cluster_of_patch, visual.cls_rows, layout
        )
    return EncodedMedia(
        features=_float32(features),
        positions=numbers.numpy(),
        newline_after=_ends_of_lines(layout).numpy() if is_whole else np.empty(0, np.int64),
        cluster_of_patch=cluster_of_patch.numpy(),
        task_map=_whole_map([None if t is None else t.task_map for t in pruned], visual),
        saliency_map=_whole_map([None if t is None else t.saliency_map for t in pruned], visual),
        layout=layout,
        num_tokens_total=sum(map(len, visual.places)) + layout.num_inputs * layout.cls_per_input,
        features_cached=features_cached,
    )


def _reading_groups(tokens: PrunedTokens, *, is_base: bool, is_whole: bool) -> Tensor:
    """`PrunedTokens.reading_group`, and -1 for the base tile, which comes first."""
    if is_base:
        return torch.full_like(tokens.origins, -1, device="cpu")
    if is_whole or tokens.reading_group is None:
        return torch.zeros_like(tokens.origins, device="cpu")
    return tokens.reading_group.cpu()


def _reading_order(positions: Tensor, groups: Tensor, layout: PatchLayout) -> Tensor:
    """Which row comes when: of tiles group by group, and in group 0 line by line of the mosaic that they make."""
    if layout.mosaic is None:
        return torch.arange(len(positions))
    rank = torch.zeros(layout.num_patches, dtype=torch.int64)
    rank[layout.mosaic.flatten()] = torch.arange(layout.mosaic.numel())
    by_line = torch.sort(torch.where(groups == 0, rank[positions], 0), stable=True).indices
    return by_line[torch.sort(groups[by_line], stable=True).indices]


def _ends_of_lines(layout: PatchLayout) -> Tensor:
    """Rows of a whole picture after which a line of its mosaic ends; the same row again for lines of no patch."""
    if layout.mosaic is None:
        return torch.empty(0, dtype=torch.int64)
    lines, columns = layout.mosaic.shape
    return layout.rows * layout.columns - 1 + columns * torch.arange(1, lines + 1)


def _with_cls_rows(
    features: Tensor, positions: Tensor, cluster_of_patch: Tensor, cls_rows: Tensor, layout: PatchLayout
) -> tuple[Tensor, Tensor, Tensor]:
    """Each part's CLS rows in front of its patches."""
    patches, count = layout.rows * layout.columns, layout.cls_per_input
    by_part = features.view(layout.num_inputs, patches, -1)
    cls = cls_rows.to(features).view(layout.num_inputs, count, -1)
    cls_positions = layout.num_patches + torch.arange(layout.num_inputs * count).view(layout.num_inputs, count)
    cluster_of_patch = cluster_of_patch + count * (1 + torch.arange(layout.num_patches) // patches)
    return (
        torch.cat([cls, by_part], dim=1).flatten(0, 1),
        torch.cat([cls_positions, positions.view(layout.num_inputs, patches)], dim=1).flatten(),
        cluster_of_patch,
    )


def _whole_map(maps: Sequence[Tensor | None], visual: MediaFeatures) -> _Maps:
    if all(one is None for one in maps):
        return None
    whole = np.zeros(visual.layout.num_patches, np.float32)
    for one, places in zip(maps, visual.places, strict=True):
        if one is not None:
            whole[places.numpy()] = _float32(one)
    return whole


def _float32(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(tensor.to("cpu", torch.float32).numpy())
