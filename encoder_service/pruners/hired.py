"""HiRED (AAAI 2025) keeps the tokens with the most CLS attention. Early attention allocates the budget over tiles.

In each tower input it keeps the patches with the most CLS attention in the second-last layer. If an image is cut into
tiles, the base tile gets a share of the budget. The rest is allocated to the other tiles (the paper's sub-images) by
the CLS attention in the *first* layer of the base tile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TiledImages
from encoder_service.pruners.holov import redistribute
from encoder_service.pruners.tower_outputs import SALIENCY_FIRST, SALIENCY_SECOND_LAST
from fovea.modeling.numerics import at_least_float32, top_k
from fovea.parameters import flag, number

__all__ = ["PRUNER", "HiredParameters", "allocate_by_early_attention", "tile_by_position", "tile_by_raster_index"]


@dataclass(frozen=True, slots=True)
class HiredParameters:
    alpha: float = number(
        0.5, minimum=0, maximum=1, description="0 to 1; for an image in tiles, the base tile's share of the budget"
    )
    fidelity: bool = flag(
        False,
        description="true or false; for an image in tiles, true allocates the budget as the authors' code does: a tile"
        " counts a run of raster positions of the base tile, and tokens lost to rounding are not allocated",
    )


def tile_by_raster_index(num_patches: int, num_tiles: int) -> Tensor:
    """Tile to which each patch of the base tile is assigned in the authors' code, [N] int64, from 0.

    Each tile has a run of raster positions of the base tile (a horizontal strip), regardless of its own position in the
    image.

    Args:
        num_patches: N, number of patches of the base tile.
        num_tiles: number of tiles without the base tile.
    """
    return torch.arange(num_patches) * num_tiles // num_patches


def tile_by_position(patch_grid: tuple[int, int], tile_at: npt.NDArray[np.int64]) -> Tensor:
    """Tile that shows the center of each patch of the base tile, [N] int64, from 0 without the base tile.

    Args:
        patch_grid: rows and columns of the base tile's patches, N = rows * columns.
        tile_at: tile of each patch of the mosaic (see `TiledImages`), not empty.
    """
    (rows, columns), (mosaic_rows, mosaic_columns) = patch_grid, tile_at.shape
    row = (2 * np.arange(rows) + 1) * mosaic_rows // (2 * rows)
    column = (2 * np.arange(columns) + 1) * mosaic_columns // (2 * columns)
    return torch.from_numpy(tile_at[row][:, column].ravel() - 1)


def allocate_by_early_attention(
    early_attention: Tensor,
    keep: int,
    *,
    alpha: float,
    sizes: Sequence[int],
    tile_of_patch: Tensor,
    fidelity: bool = False,
) -> list[int]:
    """Budget of each tile: floor(alpha K) for the base tile, the rest by early attention.

    A tile's share of the rest is its share of the base tile's floor(N (1 - alpha)) most attended patches.

    Args:
        early_attention: attention of CLS to each patch in the base tile's first layer, [N].
        keep: K, number of tokens of all tiles together.
        alpha: base tile's share of K.
        sizes: number of patches of the base tile and of each other tile.
        tile_of_patch: tile, from 0, that each patch of the base tile counts for, [N] int64.
        fidelity: whether quotas are only rounded down and cut to the tile's size, as in the authors' code. Otherwise
            the remainder is added to the largest quotas, and the excess of a full tile is allocated to other tiles.

    Returns:
        One budget for each tile, at most its size; together K, or less with `fidelity`.
    """
    num_patches, *tile_sizes = sizes
    base_budget = min(math.floor(keep * alpha), num_patches)
    if not fidelity:
        base_budget = max(base_budget, keep - sum(tile_sizes))
    remaining = min(keep - base_budget, sum(tile_sizes))
    most_attended = top_k(early_attention, math.floor(num_patches * (1 - alpha)))
    counts = np.bincount(tile_of_patch.numpy()[most_attended.numpy()], minlength=len(tile_sizes)).tolist()
    quotas = [math.floor(count / max(sum(counts), 1) * remaining) for count in counts]
    if fidelity:
        return [base_budget, *(min(quota, size) for quota, size in zip(quotas, tile_sizes, strict=True))]
    by_count = sorted(range(len(tile_sizes)), key=lambda i: (-counts[i], i))
    for i in itertools.islice(itertools.cycle(by_count), remaining - sum(quotas)):
        quotas[i] += 1
    rank = torch.tensor(by_count).argsort()
    return [base_budget, *redistribute(torch.tensor(quotas), tile_sizes, rank).tolist()]


def allocate_budget(images: TiledImages, keep: Sequence[int], params: HiredParameters) -> list[list[int]]:
    """Budgets of the tiles of each image (see `allocate_by_early_attention`)."""
    early_attention = at_least_float32(images.base.outputs[SALIENCY_FIRST]).cpu()  # the only read of a batch
    budgets = []
    for attention, image_keep, sizes, tile_at in zip(early_attention, keep, images.sizes, images.tile_at, strict=True):
        num_patches, num_tiles = images.base.num_patches, len(sizes) - 1
        if not num_tiles:
            budgets.append([image_keep])
            continue
        if params.fidelity:
            tile_of_patch = tile_by_raster_index(num_patches, num_tiles)
        else:
            tile_of_patch = tile_by_position(images.base.grid, tile_at)
        budgets.append(
            allocate_by_early_attention(
                attention,
                image_keep,
                alpha=params.alpha,
                sizes=sizes,
                tile_of_patch=tile_of_patch,
                fidelity=params.fidelity,
            )
        )
    return budgets


def prune(inputs: PrunerInput, params: HiredParameters) -> PrunedTokens:
    """Keeps the K patches with the most CLS attention, in raster order, and drops all others."""
    saliency = at_least_float32(inputs.vision.outputs[SALIENCY_SECOND_LAST])
    return PrunedTokens.of_patches(inputs.vision, top_k(saliency, inputs.keep), saliency_map=saliency)


PRUNER = Pruner(
    name="hired",
    summary="Keeps the tokens with the most CLS attention in the second-last layer and drops all others.",
    reference="HiRED, AAAI 2025",
    parameters=HiredParameters,
    requirements=lambda params: FeatureRequirements(
        outputs=frozenset({SALIENCY_SECOND_LAST}), tile_outputs=frozenset({SALIENCY_FIRST})
    ),
    prune=prune,
    allocate_budget=allocate_budget,
)
