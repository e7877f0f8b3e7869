"""Any resolution: a picture as tiles of the size that the tower takes, as LLaVA-NeXT cuts it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from encoder_service.models.preprocessing import ImageProcessor
from fovea.modeling.errors import CheckpointError

__all__ = ["TileCutter"]


class TileCutter:
    """The numbers of transformers' PIL processor of LLaVA-NeXT, without copies of a large picture.

    The first tile is the whole picture, pressed into a square. The others are cut out of the picture scaled to the
    canvas (one of the checkpoint's resolutions) that shows most of it, centred on black.

    Args:
        checkpoint: Directory with preprocessor_config.json or processor_config.json.
        canvases: `image_grid_pinpoints` of its config, heights and widths; None for transformers' default.
        tile_size: Side of the square that the tower takes.

    Raises:
        CheckpointError: The image processor is missing, or cuts other tiles than the model reads.
    """

    def __init__(self, checkpoint: Path, canvases: Any, tile_size: int) -> None:
        self._normalized = ImageProcessor(checkpoint, tile_size)
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

    def __call__(self, image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        """Tiles of an RGB picture, [1 + rows * columns, 3, H, W] float32, and rows and columns without the first one.

        Keeps no state, so any thread may call it.
        """
        size = self._tile_size
        height, width = select_best_resolution((image.height, image.width), self._canvases)
        canvas = self._on_canvas(image, height, width)
        tiles = [image.resize((size, size), self._resample)]
        for top, left in itertools.product(range(0, height, size), range(0, width, size)):
            tiles.append(canvas.crop((left, top, left + size, top + size)))
        return torch.stack([self._normalized(tile) for tile in tiles]), (height // size, width // size)

    def _on_canvas(self, image: Image.Image, height: int, width: int) -> Image.Image:
        # Rounded as transformers rounds: the shorter side upwards.
        across, down = width / image.width, height / image.height
        if across < down:
            fitted = (width, min(math.ceil(image.height * across), height))
        else:
            fitted = (min(math.ceil(image.width * down), width), height)
        canvas = Image.new("RGB", (width, height))
        canvas.paste(image.resize(fitted, self._resample), ((width - fitted[0]) // 2, (height - fitted[1]) // 2))
        return canvas

    def describe(self) -> str:
        """Its configuration, the same text for the same numbers."""
        return f"{self._normalized.describe()} {self._canvases}"


def _sides(size: Any) -> set[int | None]:
    """Height and width of what the processor resizes a tile to."""
    edge = size.get("shortest_edge")
    return {edge} if edge else {size.get("height"), size.get("width")}
