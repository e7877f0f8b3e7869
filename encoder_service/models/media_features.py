"""Images and videos as inputs of the vision tower, and as features that it computed."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from encoder_service.models.image_fit import WHOLE, Box
from encoder_service.pruners.base import FeatureRequirements, TowerFeatures
from encoder_service.pruners.tower_outputs import TowerOutput

__all__ = [
    "UNKNOWN_FRAME_RATE",
    "IntArray",
    "MediaFeatures",
    "PatchLayout",
    "TowerInputs",
    "VideoFrames",
    "split_batch",
]

IntArray: TypeAlias = npt.NDArray[np.int64]

UNKNOWN_FRAME_RATE: Final = 24.0
"""Frames a second of a video of unknown frame rate: the default of transformers."""


@dataclass(frozen=True, slots=True)
class VideoFrames:
    """Frames sampled from a video, in RGB.

    Attributes:
        frames: Frames in the order of time, at least one.
        seconds_per_frame: Time from one frame to the next; 0 if it is unknown.
        times: Time of each frame in seconds from the start; empty for frames in equal intervals.
    """

    frames: tuple[Image.Image, ...]
    seconds_per_frame: float = 0.0
    times: tuple[float, ...] = ()

    def frame_times(self) -> tuple[float, ...]:
        """Time of each frame in seconds; at 24 frames a second, as in transformers, if the interval is unknown."""
        # Divided by a rate, as transformers does: a prompt has times rounded to tenths.
        rate = 1 / self.seconds_per_frame if self.seconds_per_frame else UNKNOWN_FRAME_RATE
        return self.times or tuple(i / rate for i in range(len(self.frames)))


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """Grid of the patches of an image or video before pruning. All its tower inputs have the same grid.

    The position of a patch is tower_input * rows * columns + row * columns + column, as on the wire.

    Attributes:
        num_inputs: Number of tiles (the base tile first) or frames; 1 for an untiled image.
        rows, columns: Size of one tower input in patches.
        cls_per_input: Number of CLS tokens of each tower input that the language model reads if nothing is pruned.
        mosaic: [rows, columns of the mosaic], positions of the patches of all tiles but the base tile, without
            padding, in the order in which the language model reads them. The patches of each tile are a rectangle. A
            size may be 0 if the image is very narrow. None for media without tiles.
        is_video: Whether it is a video.
        seconds_per_frame: Time from one tower input of a video to the next; 0 for images and for families that do not
            read it.
        viewed: Area of the image, or of each frame, that the tower inputs cover.
        frame_times: Time in seconds of each tower input of a video; empty for families that do not read it.
    """

    num_inputs: int
    rows: int
    columns: int
    cls_per_input: int = 0
    mosaic: IntArray | None = None
    is_video: bool = False
    seconds_per_frame: float = 0.0
    viewed: Box = WHOLE
    frame_times: tuple[float, ...] = ()

    @property
    def num_patches(self) -> int:
        """Number of patches of all tower inputs, padding included."""
        return self.num_inputs * self.rows * self.columns

    def outputs(self, requirements: FeatureRequirements) -> frozenset[TowerOutput]:
        """Tower outputs that a pruner requires of media with this layout."""
        return requirements.outputs if self.mosaic is None else requirements.outputs | requirements.tile_outputs

    def patch_positions(self) -> tuple[IntArray, ...]:
        """Positions of the patches of each tower input, ascending, without padding; a tile may be all padding."""
        size = self.rows * self.columns
        if self.mosaic is None:
            return tuple(np.arange(start, start + size) for start in range(0, self.num_patches, size))
        is_patch = np.zeros(self.num_patches, np.bool_)
        is_patch[:size] = True
        is_patch[self.mosaic.ravel()] = True
        return tuple(
            start + np.flatnonzero(is_patch[start : start + size]) for start in range(0, self.num_patches, size)
        )


@dataclass(frozen=True, slots=True)
class TowerInputs:
    """Tower inputs of an image or video: its tiles or frames.

    Attributes:
        pixels: 8-bit pixels, resized and cut, not yet normalised: see `PixelNormalizer`. The first axis is the tower
            input; the others depend on the family, with all pixels of a channel side by side. A numpy array, because a
            decoding process sends one in a seventh of the time of a tensor.
        layout: Grid of the patches.
    """

    pixels: npt.NDArray[np.uint8]
    layout: PatchLayout


@dataclass(frozen=True, slots=True)
class MediaFeatures:
    """Features of an image or video before pruning: rows of a batch that the tower computed, padding included.

    Attributes:
        layout: Grid of the patches.
        batch: Features of the tower inputs of one or more images and videos, [B, N, C].
        rows: Rows of the batch with the tower inputs of this image or video, without tiles that are all padding.
    """

    layout: PatchLayout
    batch: TowerFeatures
    rows: tuple[int, ...]

    def patch_positions(self) -> list[IntArray]:
        """Grid positions of the patches of each row, [N_i], without padding."""
        return [positions for positions in self.layout.patch_positions() if len(positions)]

    def index_of_tiles(self) -> IntArray:
        """Index into `rows` of each tower input, [num_inputs]; 0 for tiles that are all padding."""
        size = self.layout.rows * self.layout.columns
        numbers = [int(positions[0]) // size for positions in self.patch_positions()]
        index = np.zeros(self.layout.num_inputs, np.int64)
        index[numbers] = np.arange(len(numbers))
        return index

    def have(self, outputs: Set[TowerOutput]) -> bool:
        """Whether all of `outputs` were computed."""
        return outputs <= self.batch.outputs.keys()

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in all tensors."""
        return self.batch.nbytes // self.batch.num_inputs * len(self.rows)

    def copied(self) -> MediaFeatures:
        """The same features in tensors of their own, so that the batch is not kept in memory."""
        first, last = self.rows[0], self.rows[-1] + 1

        def copy(tensor: Tensor) -> Tensor:
            if last - first == len(self.rows):
                return tensor[first:last].clone()
            return torch.cat([tensor[row : row + 1] for row in self.rows])

        return MediaFeatures(self.layout, self.batch.mapped(copy), tuple(range(len(self.rows))))


def split_batch(batch: TowerFeatures, layouts: Sequence[PatchLayout]) -> list[MediaFeatures]:
    """Features of each image and video, whose tower inputs follow one another in `batch`."""
    media, first = [], 0
    for layout in layouts:
        rows = tuple(first + i for i, positions in enumerate(layout.patch_positions()) if len(positions))
        media.append(MediaFeatures(layout, batch, rows))
        first += layout.num_inputs
    return media
