"""Pixel values by table: a media processor turns each of the 256 values of a channel into one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from fovea.modeling.errors import CheckpointError

__all__ = ["ALL_LEVELS", "NUM_CHANNELS", "NUM_LEVELS", "PixelTable", "PixelTables", "calibration_image", "read_table"]

NUM_CHANNELS: Final = 3
NUM_LEVELS: Final = 256
_CALIBRATION_SIDE: Final = 16

PixelTable = npt.NDArray[np.float32]
"""Pixel value of each 8-bit value of each channel, [3, 256], as the processor itself computes it."""

ALL_LEVELS: Final[npt.NDArray[np.uint8]] = np.tile(np.arange(NUM_LEVELS, dtype=np.uint8), (NUM_CHANNELS, 1))
"""Every 8-bit value of each channel, [3, 256]."""


@dataclass(frozen=True, slots=True, eq=False)
class PixelTables:
    """Tables of a family. Those of images and videos differ in the last bit, as the processors' arithmetic does.

    Attributes:
        images: Table of images.
        videos: Table of the frames of videos; None for a family that takes no videos.
    """

    images: PixelTable
    videos: PixelTable | None = None


def calibration_image(multiple_of: int = 1) -> Image.Image:
    """An RGB square that has every 8-bit value in each channel; its side is at least 16 and a multiple of a number."""
    side = multiple_of * -(-_CALIBRATION_SIDE // multiple_of)
    levels = (np.arange(side * side) % NUM_LEVELS).astype(np.uint8).reshape(side, side)
    return Image.fromarray(np.repeat(levels[:, :, None], NUM_CHANNELS, axis=2))


def read_table(pixels: npt.NDArray[np.uint8], pixel_values: npt.NDArray[Any]) -> PixelTable:
    """The table that leads from pixels to the pixel values of the same image.

    Args:
        pixels: [R, 3, K], with every 8-bit value in each channel.
        pixel_values: Values that the processor makes of them, [R, 3, K].

    Raises:
        CheckpointError: No table does, because a pixel value depends on more than its channel and 8-bit value.
    """
    if pixels.shape == pixel_values.shape:
        table = np.full((NUM_CHANNELS, NUM_LEVELS), np.nan, np.float32)
        channels = np.arange(NUM_CHANNELS)[:, None]
        table[channels, pixels] = pixel_values
        if np.array_equal(table[channels, pixels], pixel_values.astype(np.float32)) and np.isfinite(table).all():
            return table
    raise CheckpointError(
        "the checkpoint's image processor does more than rescale and normalise each 8-bit value of a channel;"
        " accepted: resizing, a centre crop, rescaling and normalising to finite numbers, without padding"
    )
