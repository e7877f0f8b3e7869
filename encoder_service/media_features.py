"""Images and videos as inputs of the vision tower, and as features that it computed."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, TowerFeatures
from encoder_service.pruners.tower_outputs import TowerOutput

__all__ = ["MediaFeatures", "PatchLayout", "TowerInputs", "VideoFrames"]


@dataclass(frozen=True, slots=True)
class VideoFrames:
    """Frames sampled from a video, in RGB.

    Attributes:
        frames: Frames in the order of time, at least one.
        seconds_per_frame: Time from one frame to the next; 0 if it is unknown.
    """

    frames: tuple[Image.Image, ...]
    seconds_per_frame: float = 0.0


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """Grid of the patches of an image or video before pruning. All its tower inputs have the same grid.

    The position of a patch is tower_input * rows * columns + row * columns + column, as on the wire.

    Attributes:
        num_inputs: Number of tiles (the base tile first) or frames; 1 for an untiled image.
        rows, columns: Size of one tower input in patches.
        cls_per_input: Number of CLS tokens of each tower input that the language model reads if nothing is pruned.
        mosaic: [rows, columns of the mosaic] int64, positions of the patches of all tiles but the base tile, without
            padding, in the order in which the language model reads them. The patches of each tile are a rectangle. A
            size may be 0 if the image is very narrow. None for media without tiles.
        is_video: Whether it is a video.
        seconds_per_frame: Time from one tower input of a video to the next; 0 for images and for families that do not
            read it.
    """

    num_inputs: int
    rows: int
    columns: int
    cls_per_input: int = 0
    mosaic: Tensor | None = None
    is_video: bool = False
    seconds_per_frame: float = 0.0

    @property
    def num_patches(self) -> int:
        """Number of patches of all tower inputs, padding included."""
        return self.num_inputs * self.rows * self.columns

    def outputs(self, requirements: FeatureRequirements) -> frozenset[TowerOutput]:
        """Tower outputs that a pruner requires of media with this layout."""
        return requirements.outputs if self.mosaic is None else requirements.outputs | requirements.tile_outputs

    def patch_positions(self) -> tuple[Tensor, ...]:
        """Positions of the patches of each tower input, ascending, without padding; a tile may be all padding."""
        is_patch = torch.ones(self.num_patches, dtype=torch.bool)
        if self.mosaic is not None:
            is_patch[self.rows * self.columns :] = False
            is_patch[self.mosaic.flatten()] = True
        size = self.rows * self.columns
        return tuple(
            start + is_input_patch.nonzero().squeeze(1)
            for start, is_input_patch in zip(range(0, self.num_patches, size), is_patch.split(size), strict=True)
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
    """Features of an image or video, before pruning.

    Attributes:
        layout: Grid of the patches.
        tower_features: Features of each tower input, without padding. A tile that is all padding is left out.
        patch_positions: Grid positions of the patches of each of `tower_features`, [N_i] int64 on the CPU.
        cls_tokens: [num_inputs * cls_per_input, C]; None if the layout has no CLS tokens.
    """

    layout: PatchLayout
    tower_features: tuple[TowerFeatures, ...]
    patch_positions: tuple[Tensor, ...]
    cls_tokens: Tensor | None = None

    @property
    def num_patches(self) -> int:
        """Number of patches of all tower inputs, without padding."""
        return sum(map(len, self.patch_positions))

    def have(self, outputs: Set[TowerOutput]) -> bool:
        """Whether all of `outputs` were computed."""
        return all(outputs <= features.outputs.keys() for features in self.tower_features)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (*self.patch_positions, *(() if self.cls_tokens is None else (self.cls_tokens,)))
        return sum(features.nbytes for features in self.tower_features) + sum(int(tensor.nbytes) for tensor in tensors)
