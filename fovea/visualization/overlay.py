"""Kept, merged and dropped patches, or a heat map, drawn over the part of an image that the vision tower sees."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

from PIL import Image, ImageDraw, ImageOps

from fovea.visualization.colors import Color, heat_colors, neighbouring_patches, token_colors

__all__ = ["crop_to_grid", "draw_heatmap", "draw_patches", "kept_patches"]

_MERGED_TINT: Final = 0.28
_HEAT_SHARE: Final = 0.58
# Grey levels of merged and dropped patches, from those of the image.
_MERGED_LEVELS: Final = [round(0.6 * grey + 15) for grey in range(256)]
_DROPPED_LEVELS: Final = [int(0.4 * grey + 50) for grey in range(256)]
_NO_TINT: Final = (0, 0, 0)


def crop_to_grid(image: Image.Image, grid: tuple[int, int], side: int) -> Image.Image:
    """Middle of an image in the shape of its patch grid, which is what most preprocessing leaves of it.

    Args:
        image: image in RGB.
        grid: rows and columns of patches.
        side: most pixels of the longer side; each patch has the same whole number of pixels, at least 4.
    """
    rows, columns = grid
    cell = max(side // max(rows, columns), 4)
    return ImageOps.fit(image, (columns * cell, rows * cell), Image.Resampling.BICUBIC)


def kept_patches(kept: Sequence[int], merged_into: Sequence[int], num_patches: int) -> list[tuple[int, int]]:
    """Pairs (index, patch) of the kept tokens that are patches.

    A token that is not a patch, such as CLS or a zero vector, has the position of a patch that was merged or dropped,
    or a position after the last patch.

    Args:
        kept: grid position of each kept token.
        merged_into: index into `kept` of the token that each patch is or was merged into, -1 for a dropped patch; empty
            for unknown, where each token counts as the patch of its position.
        num_patches: patches of the image.
    """
    return [
        (index, patch)
        for index, patch in enumerate(kept)
        if patch < num_patches and (not merged_into or merged_into[patch] == index)
    ]


def draw_patches(
    cropped: Image.Image, grid: tuple[int, int], kept: Sequence[int], merged_into: Sequence[int]
) -> Image.Image:
    """Image with kept patches in coloured frames, merged patches tinted in their token's colour, and the rest grey.

    Args:
        cropped: part of the image under the patches; each patch has the same whole number of pixels.
        grid: rows and columns of patches.
        kept: grid position of each kept token, see `kept_patches`.
        merged_into: index into `kept` for each patch, see `kept_patches`; where empty all but the kept patches count as
            dropped.
    """
    rows, columns = grid
    cell = cropped.width // columns
    token_of_patch = merged_into or [-1] * (rows * columns)
    patches = kept_patches(kept, merged_into, rows * columns)
    shown = list(token_of_patch)
    for index, patch in patches:
        shown[patch] = index
    colors = token_colors(shown, grid, len(kept))
    drawing = _shaded(cropped, grid, [None if token < 0 else colors[token] for token in token_of_patch])
    pen = ImageDraw.Draw(drawing)
    _draw_borders(pen, token_of_patch, grid, cell)
    for index, patch in patches:
        row, column = divmod(patch, columns)
        box = (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
        drawing.paste(cropped.crop(box), box[:2])
        frame = (box[0], box[1], box[2] - 1, box[3] - 1)
        pen.rectangle(frame, outline=colors[index], width=max(cell // 9, 1))
    return drawing


def _shaded(cropped: Image.Image, grid: tuple[int, int], tints: Sequence[Color | None]) -> Image.Image:
    """Grey image in which each patch with a tint is bright and tinted, and each other one dark."""
    grey = cropped.convert("L")
    drawing = grey.point(_DROPPED_LEVELS).convert("RGB")
    mask = Image.frombytes("L", grid[::-1], bytes(0 if tint is None else 255 for tint in tints))
    tint = Image.frombytes("RGB", grid[::-1], bytes(chain.from_iterable(tint or _NO_TINT for tint in tints)))
    tinted = Image.blend(grey.point(_MERGED_LEVELS).convert("RGB"), _enlarged(tint, grey.size), _MERGED_TINT)
    drawing.paste(tinted, mask=_enlarged(mask, grey.size))
    return drawing


def _draw_borders(pen: ImageDraw.ImageDraw, token_of_patch: Sequence[int], grid: tuple[int, int], cell: int) -> None:
    """Draws a dark line between neighbouring patches of different tokens."""
    for patch, next_patch in neighbouring_patches(grid):
        if token_of_patch[patch] == token_of_patch[next_patch]:
            continue
        row, column = divmod(next_patch, grid[1])
        x, y = column * cell, row * cell
        is_below = next_patch == patch + grid[1]
        pen.line((x, y, x + cell, y) if is_below else (x, y, x, y + cell), fill=(0, 0, 0))


def draw_heatmap(cropped: Image.Image, grid: tuple[int, int], values: Sequence[float]) -> Image.Image:
    """Map as a coloured square for each patch over the grey image; the smallest value is dark, the largest bright.

    Args:
        cropped: part of the image under the patches; each patch has the same whole number of pixels.
        grid: rows and columns of patches.
        values: finite number of each patch, in raster order. Equal values give dark squares.
    """
    low = min(values)
    spread = (max(values) - low) or 1.0
    heat = Image.frombytes("RGB", grid[::-1], heat_colors((value - low) / spread for value in values))
    grey = cropped.convert("L").convert("RGB")
    return Image.blend(grey, _enlarged(heat, grey.size), _HEAT_SHARE)


def _enlarged(patches: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Image of `size` with a square for each pixel of a smaller one."""
    return patches.resize(size, Image.Resampling.NEAREST)
