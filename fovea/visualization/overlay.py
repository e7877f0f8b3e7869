"""Kept, merged and dropped patches, or a heat map, drawn over the part of an image that the vision tower sees."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

__all__ = ["crop_to_grid", "draw_heatmap", "draw_patches", "heatmap_colors", "kept_patches", "token_colors"]

Floats = npt.NDArray[np.float32]
Item = TypeVar("Item", bound=np.generic)

# Twelve hues, dark and bright in turn, then the same ones paler, then the other way round.
_PALETTE: Final = np.array(
    [
        [
            round(255 * part)
            for part in colorsys.hsv_to_rgb((0.12 + 5 * step / 12) % 1, strength, 0.7 if (step + turn) % 2 else 1.0)
        ]
        for turn, strength in enumerate((0.95, 0.5, 0.75))
        for step in range(12)
    ],
    np.float32,
)
_MAX_DISTANCE: Final = 3 * 255.0
_FAR: Final = 220.0  # sum of the differences of red, green and blue
_MERGED_TINT: Final = 0.28
_HEAT_SHARE: Final = 0.58
# Colours from low to high. Luminance rises throughout, so that a grey print keeps the order.
_HEAT: Final = np.array([(8, 8, 40), (50, 20, 120), (140, 30, 130), (220, 60, 80), (250, 140, 40), (255, 240, 120)])


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


def token_colors(clusters: npt.NDArray[np.int64], num_tokens: int) -> npt.NDArray[np.float32]:
    """Colours of the kept tokens, [num_tokens, 3] in 0..255; tokens with adjacent patches differ much.

    Args:
        clusters: token of each patch, [rows, columns], -1 for none.
        num_tokens: number of kept tokens.
    """
    neighbours: list[set[int]] = [set() for _ in range(num_tokens)]
    for one, other in ((clusters[:, 1:], clusters[:, :-1]), (clusters[1:], clusters[:-1])):
        for left, right in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
            if left != right and min(left, right) >= 0:
                neighbours[left].add(right)
                neighbours[right].add(left)
    chosen: dict[int, int] = {}
    uses = np.zeros(len(_PALETTE))
    for token, around in enumerate(neighbours):
        taken = _PALETTE[[chosen[other] for other in around if other in chosen]]
        distance = np.abs(_PALETTE[:, None] - taken).sum(axis=-1).min(axis=1, initial=_MAX_DISTANCE)
        # The rarest of the colours that are far from those around; the farthest where none is.
        chosen[token] = int(np.lexsort((-distance, uses, distance < min(_FAR, distance.max())))[0])
        uses[chosen[token]] += 1
    return _PALETTE[[chosen[token] for token in range(num_tokens)]]


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
    cluster_of_patch = np.array(merged_into or [-1] * (rows * columns))
    grey = np.asarray(cropped.convert("L"), np.float32)[..., None]
    shown = cluster_of_patch.copy()
    for index, patch in kept_patches(kept, merged_into, rows * columns):
        shown[patch] = index
    colors = token_colors(shown.reshape(rows, columns), len(kept))
    tint = np.append(colors, np.zeros((1, 3), np.float32), axis=0)[cluster_of_patch].reshape(rows, columns, 3)
    is_merged = (cluster_of_patch >= 0).reshape(rows, columns, 1)
    shaded = np.where(
        _to_pixels(is_merged, cell),
        (1 - _MERGED_TINT) * (0.6 * grey + 15) + _MERGED_TINT * _to_pixels(tint, cell),
        0.4 * grey + 50,
    )
    drawing = Image.fromarray(shaded.clip(0, 255).astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(drawing)
    _draw_borders(pen, cluster_of_patch.reshape(rows, columns), cell)
    for index, patch in kept_patches(kept, merged_into, rows * columns):
        row, column = divmod(patch, columns)
        box = (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
        drawing.paste(cropped.crop(box), box[:2])
        frame = (box[0], box[1], box[2] - 1, box[3] - 1)
        red, green, blue = (round(float(part)) for part in colors[index])
        pen.rectangle(frame, outline=(red, green, blue), width=max(cell // 9, 1))
    return drawing


def _draw_borders(pen: ImageDraw.ImageDraw, clusters: npt.NDArray[np.int64], cell: int) -> None:
    """Draws a dark line between neighbouring patches of different tokens."""
    for row, column in zip(*np.nonzero(clusters[:, 1:] != clusters[:, :-1]), strict=True):
        x, y = (int(column) + 1) * cell, int(row) * cell
        pen.line((x, y, x, y + cell), fill=(0, 0, 0))
    for row, column in zip(*np.nonzero(clusters[1:] != clusters[:-1]), strict=True):
        x, y = int(column) * cell, (int(row) + 1) * cell
        pen.line((x, y, x + cell, y), fill=(0, 0, 0))


def draw_heatmap(cropped: Image.Image, grid: tuple[int, int], values: Sequence[float]) -> Image.Image:
    """Map as a coloured square for each patch over the grey image; the smallest value is dark, the largest bright.

    Args:
        cropped: part of the image under the patches; each patch has the same whole number of pixels.
        grid: rows and columns of patches.
        values: finite number of each patch, in raster order. Equal values give dark squares.
    """
    rows, columns = grid
    heat = np.array(values, np.float64)
    spread = heat.max() - heat.min()
    level = (heat - heat.min()) / (spread or 1.0)
    grey = np.asarray(cropped.convert("L"), np.float32)[..., None]
    colors = _to_pixels(heatmap_colors(level).reshape(rows, columns, 3), cropped.width // columns)
    blended = (1 - _HEAT_SHARE) * grey + _HEAT_SHARE * colors
    return Image.fromarray(blended.clip(0, 255).astype(np.uint8), "RGB")


def heatmap_colors(level: npt.NDArray[np.float64]) -> Floats:
    """Colours in 0..255, [n, 3], of levels in 0..1, [n]."""
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(level, stops, channel) for channel in _HEAT.T], axis=-1).astype(np.float32)


def _to_pixels(patches: npt.NDArray[Item], cell: int) -> npt.NDArray[Item]:
    """Values of pixels, [rows * cell, columns * cell, c], from values of patches, [rows, columns, c]."""
    return patches.repeat(cell, axis=0).repeat(cell, axis=1)
