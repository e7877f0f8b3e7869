"""HiRED (AAAI 2025): the tokens that CLS attends to; of a tiled picture, early attention deals the budget out first.

Of one picture it keeps the K patches with the largest CLS attention of layer V-2. A tiled picture has a base tile, the
whole picture made small, and sub-images: the base tile takes a share of the budget, the CLS attention of its *first*
layer says how much of the rest each sub-image gets, layer V-2 chooses in each tile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TiledImage
from encoder_service.pruners.holov import redistribute
from encoder_service.pruners.tower_outputs import SALIENCY_FIRST, SALIENCY_SECOND_LAST
from fovea.modeling.numerics import at_least_float32, top_k
from fovea.parameters import flag, number

__all__ = ["PRUNER", "HiredParameters", "deal_by_marks", "shown_by", "strips"]


@dataclass(frozen=True, slots=True)
class HiredParameters:
    alpha: float = number(
        0.5, minimum=0, maximum=1, description="0 to 1; of a tiled picture, share of the budget for the base tile"
    )
    fidelity: bool = flag(
        False,
        description="true or false; of a tiled picture, true counts as the authors' code does: a tile's part of the"
        " early attention is a run of raster positions, and what rounding leaves is not given out",
    )


def strips(num_patches: int, num_sub_images: int) -> Tensor:
    """[N]: as the authors' code has it, each sub-image answers for a run of raster positions of the base tile, a
    horizontal strip, wherever the sub-image lies."""
    return torch.arange(num_patches) * num_sub_images // num_patches


def shown_by(patch_grid: tuple[int, int], tile_at: Tensor) -> Tensor:
    """[N]: for each patch of the base tile the sub-image, from 0, that shows the middle of it.

    Args:
        patch_grid: Rows and columns of the base tile's patches.
        part_at: See `TiledPicture`, not empty.
    """
    (rows, columns), (lines, line_length) = patch_grid, tile_at.shape
    line = (2 * torch.arange(rows) + 1) * lines // (2 * rows)
    column = (2 * torch.arange(columns) + 1) * line_length // (2 * columns)
    return tile_at[line][:, column].flatten() - 1


def deal_by_marks(
    early_attention: Tensor,
    keep: int,
    *,
    alpha: float,
    sizes: Sequence[int],
    sub_image: Tensor,
    fidelity: bool = False,
) -> list[int]:
    """Tokens of the base tile, floor(alpha K), and of each sub-image its share of the base tile's floor(N (1 - alpha))
    best patches.

    Args:
        early_attention: Of CLS in the base tile's first layer, [N].
        keep: K of all tiles together.
        alpha: Share of K that the base tile takes.
        sizes: Patches of the base tile and of each sub-image.
        sub_image: [N], the sub-image that each patch of the base tile counts for.
        fidelity: Shares are rounded down and cut to size, and that is that. Else the remainder goes to the largest
            shares, and what a full tile cannot take to the others.

    Returns:
        One number a tile, each at most its size; together K, with `fidelity` perhaps a few less.
    """
    num_patches, *rest = sizes
    base = min(math.floor(keep * alpha), num_patches)
    if not fidelity:
        base = max(base, keep - sum(rest))
    budget = min(keep - base, sum(rest))
    marked = top_k(early_attention, math.floor(num_patches * (1 - alpha))).cpu()
    marks = torch.bincount(sub_image[marked], minlength=len(rest)).tolist()
    granted = [math.floor(count / max(sum(marks), 1) * budget) for count in marks]
    if fidelity:
        return [base, *(min(quota, size) for quota, size in zip(granted, rest, strict=True))]
    by_marks = sorted(range(len(rest)), key=lambda i: (-marks[i], i))
    for i in itertools.islice(itertools.cycle(by_marks), budget - sum(granted)):
        granted[i] += 1
    return [base, *redistribute(granted, rest, by_marks)]


def allocate_budget(picture: TiledImage, keep: int, params: HiredParameters) -> list[int]:
    """See `deal_by_marks`."""
    base, *sub_images = picture.parts
    if not sub_images:
        return [keep]
    sub_image = strips(base.num_patches, len(sub_images)) if params.fidelity else shown_by(base.grid, picture.tile_at)
    return deal_by_marks(
        at_least_float32(base.outputs[SALIENCY_FIRST]),
        keep,
        alpha=params.alpha,
        sizes=[part.num_patches for part in picture.parts],
        sub_image=sub_image,
        fidelity=params.fidelity,
    )


def prune(job: PrunerInput, params: HiredParameters) -> PrunedTokens:
    """The K most attended patches in raster order; the others leave no trace."""
    saliency = at_least_float32(job.vision.outputs[SALIENCY_SECOND_LAST])
    return PrunedTokens.some_of(job.vision, top_k(saliency, job.keep), saliency_map=saliency)


PRUNER = Pruner(
    name="hired",
    summary="Keeps the tokens that CLS attends to most in the second-last layer and drops the others.",
    reference="HiRED, AAAI 2025",
    parameters=HiredParameters,
    requirements=lambda params: FeatureRequirements(
        outputs=frozenset({SALIENCY_SECOND_LAST}), tile_outputs=frozenset({SALIENCY_FIRST})
    ),
    prune=prune,
    allocate_budget=allocate_budget,
)
