"""What became of a picture's patches, and a map over them, drawn on the picture as the encoder saw it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

__all__ = ["Color", "crop_to_grid", "draw_heatmap", "draw_patches", "heatmap_colors", "kept_patches", "token_color"]

Color = tuple[int, int, int]
Floats = npt.NDArray[np.float32]
Item = TypeVar("Item", bound=np.generic)

_GOLDEN: Final = 0.61803398875  # multiples of it, modulo 1, never come near each other soon
_MERGED_TINT: Final = 0.28
_HEAT_SHARE: Final = 0.58
# From low to high; luminance rises throughout, so that a grey print keeps the order.
_HEAT: Final = np.array([(8, 8, 40), (50, 20, 120), (140, 30, 130), (220, 60, 80), (250, 140, 40), (255, 240, 120)])


def crop_to_grid(image: Image.Image, grid: tuple[int, int], side: int) -> Image.Image:
    """The middle of a picture in the shape of its patch grid, as the towers crop it.

    Args:
        image: In RGB.
        grid: Rows and columns of patches.
        side: Pixels of the longer side at most; each patch gets the same whole number of pixels, 4 at least.
    """
    rows, columns = grid
    cell = max(side // max(rows, columns), 4)
    return ImageOps.fit(image, (columns * cell, rows * cell), Image.Resampling.BICUBIC)


def token_color(index: int) -> Color:
    """The colour of the kept token number `index`; neighbours in number differ most."""
    red, green, blue = colorsys.hsv_to_rgb((0.12 + index * _GOLDEN) % 1, 0.75 if index % 2 else 0.95, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def kept_patches(kept: Sequence[int], merged_into: Sequence[int], num_patches: int) -> list[tuple[int, int]]:
    """(index, patch) of the kept tokens that are patches.

    A token that is not one, such as CLS or a row of zeros, travels with the place of some patch that went elsewhere, or
    with one after the last patch.

    Args:
        kept: The place with which each kept token travels.
        merged_into: For each patch the index into `kept` of the token that it is or joined, -1: dropped; empty: nobody
            knows, and each token counts as its patch.
        num_patches: Of the picture.
    """
    return [
        (index, patch)
        for index, patch in enumerate(kept)
        if patch < num_patches and (not merged_into or merged_into[patch] == index)
    ]


def draw_patches(
    seen: Image.Image, grid: tuple[int, int], kept: Sequence[int], merged_into: Sequence[int]
) -> Image.Image:
    """Kept patches as they are in a frame, merged ones tinted like the frame of the token they joined, the rest grey.

    Args:
        seen: What `crop_to_grid` returned.
        grid: Rows and columns of patches.
        kept: As for `kept_patches`.
        merged_into: Likewise; where nobody knows, all but the kept patches count as dropped.
    """
    rows, columns = grid
    cell = seen.width // columns
    owner = np.array(merged_into or [-1] * (rows * columns))
    grey = np.asarray(seen.convert("L"), np.float32)[..., None]
    colors = np.array([token_color(index) for index in range(len(kept))] or [(0, 0, 0)], np.float32)
    tint, is_merged = colors[owner].reshape(rows, columns, 3), (owner >= 0).reshape(rows, columns, 1)
    shaded = np.where(
        _spread(is_merged, cell),
        (1 - _MERGED_TINT) * (0.6 * grey + 15) + _MERGED_TINT * _spread(tint, cell),
        0.4 * grey + 50,
    )
    drawing = Image.fromarray(shaded.clip(0, 255).astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(drawing)
    _draw_borders(pen, owner.reshape(rows, columns), cell)
    for index, patch in kept_patches(kept, merged_into, rows * columns):
        row, column = divmod(patch, columns)
        box = (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
        drawing.paste(seen.crop(box), box[:2])
        frame = (box[0], box[1], box[2] - 1, box[3] - 1)
        pen.rectangle(frame, outline=token_color(index), width=max(cell // 9, 1))
    return drawing


def _draw_borders(pen: ImageDraw.ImageDraw, owner: npt.NDArray[np.int64], cell: int) -> None:
    """A dark line wherever two neighbouring patches went to different tokens."""
    for row, column in zip(*np.nonzero(owner[:, 1:] != owner[:, :-1]), strict=True):
        x, y = (int(column) + 1) * cell, int(row) * cell
        pen.line((x, y, x, y + cell), fill=(0, 0, 0))
    for row, column in zip(*np.nonzero(owner[1:] != owner[:-1]), strict=True):
        x, y = int(column) * cell, (int(row) + 1) * cell
        pen.line((x, y, x + cell, y), fill=(0, 0, 0))


def draw_heatmap(seen: Image.Image, grid: tuple[int, int], values: Sequence[float]) -> Image.Image:
    """A map as colours over the greyed picture, a square a patch: its smallest value dark, its largest bright.

    Args:
        seen: What `crop_to_grid` returned.
        grid: Rows and columns of patches.
        values: One finite number a patch, in raster order. Where all are equal all squares are dark.
    """
    rows, columns = grid
    heat = np.array(values, np.float64)
    spread = heat.max() - heat.min()
    level = (heat - heat.min()) / (spread or 1.0)
    grey = np.asarray(seen.convert("L"), np.float32)[..., None]
    over = _spread(heatmap_colors(level).reshape(rows, columns, 3), seen.width // columns)
    blended = (1 - _HEAT_SHARE) * grey + _HEAT_SHARE * over
    return Image.fromarray(blended.clip(0, 255).astype(np.uint8), "RGB")


def heatmap_colors(level: npt.NDArray[np.float64]) -> Floats:
    """[n, 3] colours in 0..255 of levels [n] in 0..1."""
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(level, stops, channel) for channel in _HEAT.T], axis=-1).astype(np.float32)


def _spread(patches: npt.NDArray[Item], cell: int) -> npt.NDArray[Item]:
    """[rows, columns, c] to pixels [rows cell, columns cell, c]."""
    return patches.repeat(cell, axis=0).repeat(cell, axis=1)
