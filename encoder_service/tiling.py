"""Tiles of a picture: their padding is cut away, and they are seen together by methods that look across them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from encoder_service.pruners.base import TiledImage, TowerFeatures
from encoder_service.visual import MediaFeatures, PatchLayout

__all__ = ["as_one_part", "tiled_image", "without_padding"]


def without_padding(layout: PatchLayout, tiles: Sequence[TowerFeatures]) -> MediaFeatures:
    """A picture whose tiles have gone through the tower whole: what is padding is no patch of theirs any more.

    What is shown of a tile is a rectangle, which becomes its grid. A tile that is padding throughout is left out.
    """
    parts, places = [], []
    for number, (tile, shown) in enumerate(zip(tiles, layout.places(), strict=True)):
        if not len(shown):
            continue
        patches = shown - number * layout.rows * layout.columns
        num_rows = len(torch.unique(patches // layout.columns))
        is_whole = len(patches) == tile.num_patches
        parts.append(tile if is_whole else tile.take(patches, (num_rows, len(patches) // num_rows)))
        places.append(shown)
    return MediaFeatures(layout, tuple(parts), tuple(places))


def tiled_image(visual: MediaFeatures) -> TiledImage:
    """What a method sees that deals its budget out over the tiles; of a picture in tiles."""
    layout = visual.layout
    assert layout.mosaic is not None
    part_of = torch.zeros(layout.num_inputs, dtype=torch.int64)
    for part, places in enumerate(visual.places):
        part_of[places[0] // (layout.rows * layout.columns)] = part
    return TiledImage(visual.parts, part_of[layout.mosaic // (layout.rows * layout.columns)])


def as_one_part(visual: MediaFeatures) -> MediaFeatures:
    """A picture in tiles as one row of patches, in the order in which the language model reads them."""
    layout = visual.layout
    assert layout.mosaic is not None
    places = torch.cat(visual.places)
    number = torch.empty(layout.num_patches, dtype=torch.int64)
    number[places] = torch.arange(len(places))
    in_order = torch.cat([visual.places[0], layout.mosaic.flatten()])
    joined = TowerFeatures.concatenated(visual.parts)
    return MediaFeatures(layout, (joined.take(number[in_order], joined.grid),), (in_order,))
