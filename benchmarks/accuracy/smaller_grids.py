"""Baselines that choose no tokens: the image shrunk to K patches, and the features of the whole image pooled to K.

`downsampled` shrinks the pixels, so the tower has K patches to compute. Its position embeddings are interpolated, as
transformers does with `interpolate_pos_encoding`. `pooled` runs the tower on the whole image, as the pruners do, and
averages its features over areas. Both give tokens in raster order. A language model of LLaVA's families counts the
tokens before one and reads no grid, so nothing else tells it that the grid is smaller.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from benchmarks.accuracy.system import ImageQuestion
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.models.llava import LlavaEncoder
from encoder_service.models.media_features import PatchLayout, TowerInputs
from encoder_service.models.pixel_normalizer import PixelNormalizer

__all__ = ["BASELINES", "Baseline", "Grid", "downsampled", "encoded", "grid_within", "pooled"]

Grid: TypeAlias = tuple[int, int]
"""Rows and columns."""

Baseline: TypeAlias = Callable[[LlavaEncoder, Sequence[TowerInputs], Grid], Tensor]
"""Features [B, rows * columns, C] of images, on a smaller grid."""

_MOST_STRETCHED: Final = 2  # longest side of a grid over the shorter one
_BATCH: Final = 64


def grid_within(keep: int, whole: Grid) -> Grid:
    """Grid of at most `keep` patches for a square image: as many patches as possible, then as square as possible.

    A grid that is not square stretches the image. Its longer side is at most twice the shorter one, and horizontal.

    Args:
        keep: K, 1 or more.
        whole: grid of the tower, which is not exceeded.
    """
    grids = [
        (rows, columns)
        for rows in range(1, whole[0] + 1)
        for columns in range(rows, min(_MOST_STRETCHED * rows, whole[1]) + 1)
        if rows * columns <= keep
    ]
    return max(grids, key=lambda grid: (math.prod(grid), grid[0]))


@torch.inference_mode()
def downsampled(model: LlavaEncoder, images: Sequence[TowerInputs], grid: Grid) -> Tensor:
    """Features of the tower for images shrunk to the grid, [B, rows * columns, C].

    Args:
        model: model whose tower is run.
        images: the images at the size of the tower.
        grid: grid of patches to which the images are resized (bicubic, antialiased).
    """
    tower = model.vision_tower.vision_model
    height, width = (tower.config.patch_size * side for side in grid)
    shrunk = [TowerInputs(_resized(image.pixels[0], (width, height))[None], image.layout) for image in images]
    normalizer = PixelNormalizer(model.media.pixel_tables(), (3, height, width), model.device, model.dtype)
    hidden: Tensor = tower.pre_layrnorm(tower.embeddings(normalizer(shrunk), interpolate_pos_encoding=True))
    for layer in tower.encoder.layers[:-1]:  # the language model reads the input of the last one
        hidden = layer(hidden, None)
    return hidden[:, 1:]


@torch.inference_mode()
def pooled(model: LlavaEncoder, images: Sequence[TowerInputs], grid: Grid) -> Tensor:
    """Features of the tower for whole images, averaged over the areas of the grid, [B, rows * columns, C].

    Args:
        model: model whose tower is run.
        images: the images at the size of the tower.
        grid: grid of areas. Areas share patches where its sides do not divide those of the tower's grid.
    """
    features = model.vision_tower(model.pixel_values(images), frozenset())
    return adaptive_avg_pool2d(features.hidden.mT.unflatten(-1, features.grid), grid).flatten(2).mT


BASELINES: Final[dict[str, Baseline]] = {"downsample": downsampled, "pooling": pooled}


def encoded(model: LlavaEncoder, baseline: Baseline, keep: int, asked: Sequence[ImageQuestion]) -> list[EncodedMedia]:
    """Visual tokens of each question; those of an image are computed once.

    Args:
        model: model whose tower is run.
        baseline: one of `BASELINES`.
        keep: K; see `grid_within` for the number of tokens.
        asked: questions with their images.
    """
    grid = grid_within(keep, model.vision_tower.grid)
    files = list(dict.fromkeys(question.image for question in asked))
    media: dict[bytes, EncodedMedia] = {}
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        inputs = [model.media.image(Image.open(io.BytesIO(file)).convert("RGB")) for file in batch]
        features = baseline(model, inputs, grid)
        media |= {file: _media(of_image, grid) for file, of_image in zip(batch, features, strict=True)}
    return [media[question.image] for question in asked]


def _resized(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Pixels [3, H, W] resized to width and height."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return np.ascontiguousarray(np.asarray(image.resize(size, Image.Resampling.BICUBIC)).transpose(2, 0, 1))


def _media(features: Tensor, grid: Grid) -> EncodedMedia:
    """Tokens of an image of a smaller grid, all of which are kept."""
    positions = np.arange(math.prod(grid))
    return EncodedMedia(
        features.float().cpu().numpy(),
        positions,
        np.zeros(0, np.int64),
        positions,
        None,
        None,
        PatchLayout(1, *grid),
        len(positions),
        features_cached=False,
    )
