"""Geometry of an image in tiles, as LLaVA-NeXT cuts it ("anyres")."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["mosaic"]


def mosaic(
    patch_grid: tuple[int, int], tile_grid: tuple[int, int], image_size: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Mosaic of an image: the patches of its tiles side by side, without those that show only padding.

    The image was scaled to fit the tiles with its aspect ratio kept, and centred. The remaining space at two opposite
    sides is padding. The mosaic of an image that is too narrow for one patch is empty along one axis.

    Args:
        patch_grid: rows and columns of the patches of one tile, N = rows * columns.
        tile_grid: rows and columns of the tiles, without the base tile.
        image_size: height and width of the image in pixels.

    Returns:
        [lines, columns] int64, tile * N + patch. Tile 0 is the base tile, which is not part of the mosaic.
    """
    (rows, columns), (tile_rows, tile_columns), (height, width) = patch_grid, tile_grid, image_size
    ids = rows * columns + np.arange(tile_rows * tile_columns * rows * columns, dtype=np.int64)
    by_tile = ids.reshape(tile_rows, tile_columns, rows, columns).swapaxes(1, 2)
    stitched = by_tile.reshape(tile_rows * rows, tile_columns * columns)
    all_rows, all_columns = stitched.shape
    if width * all_rows > height * all_columns:  # wider than the mosaic: padding above and below
        # Rounded as in transformers, so that half a row falls to the same side.
        shown = int(round(height * (all_columns / width), 7))
        margin = (all_rows - shown) // 2
        return stitched[margin : all_rows - margin]
    shown = int(round(width * (all_rows / height), 7))
    margin = (all_columns - shown) // 2
    return stitched[:, margin : all_columns - margin]
