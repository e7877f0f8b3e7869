"""AnyRes: an image as tiles of the size that the tower takes, as in LLaVA-NeXT."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from encoder_service.models.pixel_table import PixelTable
from encoder_service.models.preprocessing import ImageProcessor
from fovea.media import images
from fovea.media.images import Size
from fovea.modeling.errors import CheckpointError

__all__ = ["TileCutter"]


class TileCutter:
    """Tiles as transformers' PIL processor of LLaVA-NeXT makes them, without copies of a large image.

    The first tile is the base tile: the whole image, resized to a square. The others are cut out of the image on the
    canvas (one of the checkpoint's resolutions) that preserves most of it, scaled to fit and centred on black.

    Args:
        checkpoint: Directory with preprocessor_config.json or processor_config.json.
        canvases: Heights and widths, `image_grid_pinpoints` of its config; None for transformers' default.
        tile_size: Side of the square that the tower takes.

    Raises:
        CheckpointError: The image processor is missing, or cuts other tiles than the model reads.
    """

    def __init__(self, checkpoint: Path, canvases: Any, tile_size: int) -> None:
        self._to_pixels = ImageProcessor(checkpoint, tile_size)
        processor = LlavaNextImageProcessorPil.from_pretrained(checkpoint, local_files_only=True)
        self._canvases = [tuple(canvas) for canvas in canvases or LlavaNextImageProcessorPil.image_grid_pinpoints]
        self._tile_size = tile_size
        self._resample = processor.resample
        if [tuple(canvas) for canvas in processor.image_grid_pinpoints] != self._canvases:
            raise CheckpointError(
                f"the image processor of {checkpoint.name!r} has other image_grid_pinpoints than its config.json"
            )
        if not self._canvases or any(side < 1 or side % tile_size for canvas in self._canvases for side in canvas):
            raise CheckpointError(
                f"image_grid_pinpoints of {checkpoint.name!r} are {self._canvases}; sides must be multiples of"
                f" {tile_size}, which the vision tower takes"
            )
        if {*_sides(processor.size), (processor.crop_size or {}).get("height")} != {tile_size}:
            raise CheckpointError(
                f"the image processor of {checkpoint.name!r} makes tiles of another size than the {tile_size} that the"
                " vision tower takes"
            )

    def __call__(
        self, image: Image.Image, full_size: Size | None = None
    ) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
        """Tiles of an RGB image, [1 + rows * columns, 3, H, W], and rows and columns without the base tile.

        Keeps no state, so any thread may call it.

        Args:
            image: The image, not smaller than `needed_size` of its full size.
            full_size: Its size before a decoder reduced it; None if none did.
        """
        size = self._tile_size
        full_size = full_size or image.size
        width, height = self._canvas(full_size)
        canvas, fitted = Image.new("RGB", (width, height)), self._fitted(full_size)
        corner = (width - fitted[0]) // 2, (height - fitted[1]) // 2
        canvas.paste(images.resize(image, fitted, self._resample, full_size), corner)
        tiles = [images.resize(image, (size, size), self._resample, full_size)]
        for top, left in itertools.product(range(0, height, size), range(0, width, size)):
            tiles.append(canvas.crop((left, top, left + size, top + size)))
        return np.stack([self._to_pixels(tile) for tile in tiles]), (height // size, width // size)

    def needed_size(self, size: Size) -> Size:
        """Largest width and height to which an image of `size` is resized, for the canvas or as the base tile."""
        width, height = self._fitted(size)
        return max(width, self._tile_size), max(height, self._tile_size)

    def _canvas(self, size: Size) -> Size:
        width, height = size
        canvas_height, canvas_width = select_best_resolution((height, width), self._canvases)
        return canvas_width, canvas_height

    def _fitted(self, size: Size) -> Size:
        """Size on its canvas of an image of `size`. Rounded as transformers rounds: the shorter side upwards."""
        width, height = self._canvas(size)
        scale_x, scale_y = width / size[0], height / size[1]
        if scale_x < scale_y:
            return width, min(math.ceil(size[1] * scale_x), height)
        return min(math.ceil(size[0] * scale_y), width), height

    def pixel_table(self) -> PixelTable:
        """See `ImageProcessor.pixel_table`."""
        return self._to_pixels.pixel_table()

    def describe(self) -> str:
        """Configuration as text; equal for processors that give equal results."""
        return f"{self._to_pixels.describe()} {self._canvases}"


def _sides(size: Any) -> set[int | None]:
    """Height and width to which the processor resizes a tile."""
    edge = size.get("shortest_edge")
    return {edge} if edge else {size.get("height"), size.get("width")}
