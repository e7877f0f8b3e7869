"""Pictures and videos on their way through the encoder: as the tower takes them, and as it leaves them.

Both are made of parts, and a part is what a pruner looks at: a picture, a tile of one, a frame of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Set
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
        frames: In the order of time, at least one.
        seconds_per_frame: From one to the next; 0 where it is not known.
    """

    frames: tuple[Image.Image, ...]
    seconds_per_frame: float = 0.0


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """How the patches of a picture or video lie before pruning. All parts have the same grid.

    A patch is numbered part * rows * columns + row * columns + column, as on the wire.

    Attributes:
        num_parts: Tiles (the base tile first) or frames; 1 for a plain picture.
        rows, columns: Of a part's patches.
        cls_per_part: Rows of each part that stand for no patch and that the language model reads where nothing is
            pruned.
        mosaic: Patches of the tiles after the base in the order in which the language model reads them, line by line,
            [lines, columns of the whole mosaic], without padding: a rectangle of each tile. Either may be 0 where a
            picture is very narrow. None for all that is not tiled.
        is_video: It is one.
        seconds_per_frame: Of a video, from one part to the next; 0 where it does not matter.
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
        """Of all parts, padding included."""
        return self.num_inputs * self.rows * self.columns

    def outputs(self, requirements: FeatureRequirements) -> frozenset[TowerOutput]:
        """What the tower must compute of it for a pruner."""
        return requirements.outputs if self.mosaic is None else requirements.outputs | requirements.tile_outputs

    def places(self) -> tuple[Tensor, ...]:
        """For each part the numbers of its patches that are no padding, ascending; of some tiles there are none."""
        shown = torch.ones(self.num_patches, dtype=torch.bool)
        if self.mosaic is not None:
            shown[self.rows * self.columns :] = False
            shown[self.mosaic.flatten()] = True
        size = self.rows * self.columns
        return tuple(
            start + part.nonzero().squeeze(1)
            for start, part in zip(range(0, self.num_patches, size), shown.split(size), strict=True)
        )


@dataclass(frozen=True, slots=True)
class TowerInputs:
    """A picture or video ready for the tower.

    Attributes:
        pixel_values: Float32 on the CPU, parts first; what the other axes are is the family's business.
        layout: How its patches will lie.
    """

    pixel_values: Tensor
    layout: PatchLayout

    def __reduce__(self) -> tuple[Callable[..., TowerInputs], tuple[object, PatchLayout]]:
        # As a numpy array: the way from a decoding process takes a seventh of a tensor's time.
        return _from_array, (self.pixel_values.numpy(), self.layout)


def _from_array(pixel_values: npt.NDArray[np.float32], layout: PatchLayout) -> TowerInputs:
    return TowerInputs(torch.from_numpy(pixel_values), layout)


@dataclass(frozen=True, slots=True)
class MediaFeatures:
    """A picture or video after the tower.

    Attributes:
        layout: How the patches lie.
        parts: What the tower made of each part; padding is not among its patches. A part that is padding throughout is
            left out.
        places: For each of `parts` the numbers of its patches in the layout, [N_i] int64 on the CPU.
        cls_rows: [num_parts * cls_per_part, C] where the layout has such rows.
    """

    layout: PatchLayout
    parts: tuple[TowerFeatures, ...]
    places: tuple[Tensor, ...]
    cls_rows: Tensor | None = None

    def have(self, outputs: Set[TowerOutput]) -> bool:
        """All of `views` were computed."""
        return all(outputs <= part.outputs.keys() for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (*self.places, *(() if self.cls_rows is None else (self.cls_rows,)))
        return sum(part.nbytes for part in self.parts) + sum(int(tensor.nbytes) for tensor in tensors)
