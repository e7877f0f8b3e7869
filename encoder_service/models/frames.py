"""Pixels of the frames of a video, as transformers' video processors make them, without torchvision.

They are resized with torch's antialiased interpolation on 8-bit values, which torchvision calls too. Images are resized
with Pillow, which rounds differently: some values differ by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from encoder_service.models.image_fit import Box, padding_color, square_on, viewed_box
from encoder_service.models.pixel_table import ALL_LEVELS, PixelTable
from fovea.media.images import Size
from fovea.modeling.errors import CheckpointError
from fovea.wire.image_fits import ImageFit

__all__ = ["RESAMPLINGS", "FrameProcessor", "normalized_levels", "read_video_config", "resize"]

# Filters of `resize`: Pillow's numbers and torch's names.
RESAMPLINGS: Final = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
# Defaults of transformers' VideoLlavaVideoProcessor.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": Image.Resampling.BICUBIC,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
}


def resize(frames: Tensor, height: int, width: int, resample: int) -> Tensor:
    """[T, 3, H, W] uint8 to [T, 3, height, width] uint8; `resample` is Pillow's number of bilinear or bicubic."""
    if frames.shape[-2:] == (height, width):
        return frames
    mode = RESAMPLINGS[Image.Resampling(resample)]
    return F.interpolate(frames, (height, width), mode=mode, align_corners=False, antialias=True)


def normalized_levels(mean: Tensor, std: Tensor) -> PixelTable:
    """Table of a video processor, whose arithmetic is (value - mean) / std in float32.

    Args:
        mean, std: Of the 8-bit values, three numbers each.
    """
    levels = torch.from_numpy(ALL_LEVELS).to(torch.float32)
    table: PixelTable = ((levels - mean.view(3, 1)) / std.view(3, 1)).numpy()
    return table


class FrameProcessor:
    """A CLIP-like video processor: the short side is resized, a centre square cropped; a table normalises the values.

    Args:
        checkpoint: Directory with video_preprocessor_config.json, processor_config.json or preprocessor_config.json.
        image_size: Side of the square that the tower takes.

    Raises:
        CheckpointError: The checkpoint's processor makes frames of another size, or has other steps.
    """

    def __init__(self, checkpoint: Path, image_size: int) -> None:
        found = read_video_config(checkpoint)
        config = {name: default if found.get(name) is None else found[name] for name, default in _DEFAULTS.items()}
        crop, edge = config["crop_size"], config["size"].get("shortest_edge")
        if (crop.get("height"), crop.get("width")) != (image_size, image_size) or not edge or edge < image_size:
            raise CheckpointError(
                f"the video processor of {checkpoint.name!r} brings the short side to {edge} and cuts out {crop};"
                f" its video tower takes {image_size} x {image_size}"
            )
        steps = [name for name in _DEFAULTS if name.startswith("do_") and not config[name]]
        if steps or config["resample"] not in list(RESAMPLINGS):
            raise CheckpointError(
                f"the video processor of {checkpoint.name!r} leaves out {steps} or resamples by {config['resample']};"
                f" accepted: every step, {', '.join(f'{int(number)} ({name})' for number, name in RESAMPLINGS.items())}"
            )
        self._edge, self._side, self._resample = int(edge), image_size, int(config["resample"])
        scale = 1.0 / config["rescale_factor"]
        self._mean, self._std = (torch.tensor(config[name]) * scale for name in ("image_mean", "image_std"))
        self._padding = padding_color(config["image_mean"])

    def __call__(self, frames: Sequence[Image.Image], fit: ImageFit = "crop") -> npt.NDArray[np.uint8]:
        """[T, 3, side, side] of T frames in RGB. Keeps no state, so any thread may call it."""
        squares: npt.NDArray[np.uint8] = torch.stack([self._square(frame, fit) for frame in frames]).numpy()
        return squares

    def viewed(self, size: Size, fit: ImageFit = "crop") -> Box:
        """Area of a frame of `size` that the pixels show."""
        resized = self.resized_size(size if fit == "crop" else (max(size), max(size)))
        return viewed_box(size, resized, (self._side, self._side), fit)

    def pixel_table(self) -> PixelTable:
        """Table with which transformers' video processor rescales and normalises, in one step."""
        return normalized_levels(self._mean, self._std)

    def resized_size(self, size: Size) -> Size:
        """Size to which a frame of `size` is resized."""
        width, height = (self._edge if side == min(size) else int(self._edge * side / min(size)) for side in size)
        return width, height

    def _square(self, frame: Image.Image, fit: ImageFit) -> Tensor:
        """[3, side, side] uint8 of one frame. A whole clip at its own size would be in memory several times."""
        if fit == "pad":
            frame, _ = square_on(frame, frame.size, self._padding)
        pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1).contiguous()[None]
        width, height = self.resized_size(frame.size)
        pixels = resize(pixels, height, width, self._resample)[0]
        top, left = (height - self._side) // 2, (width - self._side) // 2
        # A copy: a view would keep the whole resized frame, which is a hundred times as large for the longest strips.
        return pixels[:, top : top + self._side, left : left + self._side].clone()

    def describe(self) -> str:
        """Configuration as text; equal for processors that give equal results."""
        return f"{self._edge} {self._side} {self._resample} {self._mean.tolist()} {self._std.tolist()}"


def read_video_config(checkpoint: Path) -> dict[str, Any]:
    """Config of the video processor, from the first file that exists, in the order of transformers: the newest layout,
    the video processor's own file, the image processor's.

    Raises:
        CheckpointError: None of the files exists, or one cannot be read.
    """
    candidates = (("processor_config.json", "video_processor"), ("video_preprocessor_config.json", None))
    for name, key in (*candidates, ("preprocessor_config.json", None)):
        path = checkpoint / name
        if not path.is_file():
            continue
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            found = config if key is None else config.get(key)
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"the {name} of {checkpoint.name!r} cannot be read") from error
        if isinstance(found, dict):
            return found
    raise CheckpointError(
        f"{checkpoint.name!r} has neither video_preprocessor_config.json nor preprocessor_config.json"
    )
