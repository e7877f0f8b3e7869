"""HiRED (AAAI 2025): the tokens that CLS attends to; of a tiled picture, early attention deals the budget out first.

Of one picture it keeps the K patches with the largest CLS attention of layer V-2. A tiled picture has a base tile, the
whole picture made small, and sub-images: the base tile takes a share of the budget, the CLS attention of its *first*
layer says how much of the rest each sub-image gets, layer V-2 chooses in each tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import Needs, PrunedTokens, Pruner, PrunerInput, View, at_least_float32
from encoder_service.pruners.selection import top_k

__all__ = ["PRUNER", "select_in_tiles", "sub_image_quotas"]


@dataclass(frozen=True, slots=True)
class HiredParameters:
    """It has none for one picture."""


def sub_image_quotas(
    early_attention: Tensor,
    budget: int,
    *,
    alpha: float,
    patch_grid: tuple[int, int],
    tile_grid: tuple[int, int],
    fidelity: bool = False,
) -> list[int]:
    """Tokens of each sub-image: its share of the base tile's best floor(N (1 - alpha)) patches, rounded down.

    Args:
        early_attention: Of CLS in the base tile's first layer, [N].
        budget: Of all sub-images together.
        alpha: Share of the whole budget that the base tile takes.
        patch_grid: Rows and columns of a tile's patches.
        tile_grid: Rows and columns of sub-images.
        fidelity: As the authors' code has it, a sub-image's patches are a run of raster positions of the base tile, a
            horizontal strip, wherever the sub-image lies; else those that show the same part of the picture.

    Returns:
        One number a sub-image, row by row, at most N each; together at most `budget`.
    """
    (rows, columns), (tile_rows, tile_columns) = patch_grid, tile_grid
    num_patches, num_sub_images = rows * columns, tile_rows * tile_columns
    marked = top_k(early_attention, math.floor(num_patches * (1 - alpha)))
    if fidelity:
        places = marked * num_sub_images // num_patches
    else:
        row, column = marked // columns, marked % columns
        places = row * tile_rows // rows * tile_columns + column * tile_columns // columns
    marks = torch.bincount(places, minlength=num_sub_images).tolist()
    return [min(math.floor(count / max(sum(marks), 1) * budget), num_patches) for count in marks]


def select_in_tiles(
    early_attention: Tensor,
    attention: Tensor,
    *,
    rate: float,
    alpha: float,
    patch_grid: tuple[int, int],
    tile_grid: tuple[int, int],
    fidelity: bool = False,
) -> Tensor:
    """Which patches of a tiled picture are kept, before its padding is cut away (see `tiles.mosaic`).

    Args:
        early_attention: Of CLS in the base tile's first layer, [N].
        attention: Of CLS in layer V-2, [T, N], base tile first, then the sub-images row by row.
        rate: Share of all T N patches to keep, in (0, 1].
        alpha: Share of those that the base tile takes.
        patch_grid: See `sub_image_quotas`.
        tile_grid: See `sub_image_quotas`.
        fidelity: See `sub_image_quotas`.

    Returns:
        [T, N], bool: floor(T N rate) at most; rounding of the quotas loses a few.
    """
    num_tiles, num_patches = attention.shape
    total = math.floor(num_tiles * num_patches * rate)
    base = min(math.floor(total * alpha), num_patches)
    rest = min(total - base, (num_tiles - 1) * num_patches)
    counts = sub_image_quotas(
        early_attention, rest, alpha=alpha, patch_grid=patch_grid, tile_grid=tile_grid, fidelity=fidelity
    )
    mask = torch.zeros_like(attention, dtype=torch.bool)
    for tile, count in enumerate([base, *counts]):
        mask[tile, top_k(attention[tile], count)] = True
    return mask


def prune(job: PrunerInput, params: HiredParameters) -> PrunedTokens:
    """The K most attended patches in raster order; the others leave no trace."""
    saliency = at_least_float32(job.vision.views[View.SALIENCY_SECOND_LAST])
    return PrunedTokens.some_of(job.vision, top_k(saliency, job.keep), saliency_map=saliency)


PRUNER = Pruner(
    name="hired",
    summary="Keeps the tokens that CLS attends to most in the second-last layer and drops the others.",
    reference="HiRED, AAAI 2025",
    parameters=HiredParameters,
    needs=lambda params: Needs(views=frozenset({View.SALIENCY_SECOND_LAST})),
    prune=prune,
)
