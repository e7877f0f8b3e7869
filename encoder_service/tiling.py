"""Tiles of an image: removal of their padding, and what a pruner sees that allocates its budget across them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from encoder_service.media_features import MediaFeatures, PatchLayout
from encoder_service.pruners.base import TiledImage, TowerFeatures

__all__ = ["tiled_image", "without_padding"]


def without_padding(layout: PatchLayout, tiles: Sequence[TowerFeatures]) -> MediaFeatures:
    """A tiled image without the patches that are padding.

    The patches that remain of a tile are a rectangle, which becomes its grid. A tile that is all padding is left out.

    Args:
        layout: Grid of the patches.
        tiles: Features of all tiles, padding included.
    """
    tower_features, patch_positions = [], []
    for number, (tile, positions) in enumerate(zip(tiles, layout.patch_positions(), strict=True)):
        if not len(positions):
            continue
        patches = positions - number * layout.rows * layout.columns
        num_rows = len(torch.unique(patches // layout.columns))
        is_whole = len(patches) == tile.num_patches
        tower_features.append(tile if is_whole else tile.take(patches, (num_rows, len(patches) // num_rows)))
        patch_positions.append(positions)
    return MediaFeatures(layout, tuple(tower_features), tuple(patch_positions))


def tiled_image(image: MediaFeatures) -> TiledImage:
    """Tiles of an image and their arrangement, for a pruner that allocates its budget across tiles."""
    layout = image.layout
    assert layout.mosaic is not None
    tile_size = layout.rows * layout.columns
    index_of_tile = torch.zeros(layout.num_inputs, dtype=torch.int64)
    for index, positions in enumerate(image.patch_positions):
        index_of_tile[positions[0] // tile_size] = index
    return TiledImage(image.tower_features, index_of_tile[layout.mosaic // tile_size])
