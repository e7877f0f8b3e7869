"""Geometry of a picture cut into tiles, as LLaVA-NeXT does ("anyres")."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mosaic"]


def mosaic(patch_grid: tuple[int, int], tile_grid: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """The patches of the sub-images as the whole picture shows them, without those that show padding only.

    The picture was scaled to fit the tiles, its proportions kept, and centred; what is left over at two opposite sides
    is padding. One that is too narrow for a single patch has no line, or lines of nothing.

    Args:
        patch_grid: Rows and columns of a tile's patches, N together.
        tile_grid: Rows and columns of sub-images.
        image_size: Height and width of the picture.

    Returns:
        [lines, columns], int64: tile * N + patch, tile 0 being the base tile, which is not among them.
    """
    (rows, columns), (tile_rows, tile_columns), (height, width) = patch_grid, tile_grid, image_size
    ids = rows * columns + torch.arange(tile_rows * tile_columns * rows * columns)
    stitched = ids.view(tile_rows, tile_columns, rows, columns).transpose(1, 2)
    stitched = stitched.reshape(tile_rows * rows, tile_columns * columns)
    all_rows, all_columns = stitched.shape
    if width * all_rows > height * all_columns:  # wider than the mosaic: padding above and below
        # Rounded as transformers rounds, since a half row must fall alike.
        shown = int(round(height * (all_columns / width), 7))
        margin = (all_rows - shown) // 2
        return stitched[margin : all_rows - margin]
    shown = int(round(width * (all_rows / height), 7))
    margin = (all_columns - shown) // 2
    return stitched[:, margin : all_columns - margin]
