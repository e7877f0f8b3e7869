"""Patches of the pixels of RGB images and frames for Qwen2.5-VL and Qwen3-VL, at their own resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as smart_resize_video

from encoder_service.models.frame_sampling import first_of_intervals, from_first_to_last
from encoder_service.models.frames import RESAMPLINGS, normalized_levels, read_video_config, resize
from encoder_service.models.media_features import UNKNOWN_FRAME_RATE
from encoder_service.models.pixel_table import NUM_CHANNELS, PixelTables, calibration_image, read_table
from fovea.errors import InvalidRequest
from fovea.media import images
from fovea.media.images import Size
from fovea.modeling.errors import CheckpointError

__all__ = ["Qwen3Pixels", "QwenPixels"]

_MIN_FRAMES, _MAX_FRAMES = 4, 768
# The rate for which the model was trained; transformers leaves it to the caller.
_FRAMES_PER_SECOND: Final = 2.0


class QwenPixels:
    """Patches as transformers makes them, by the checkpoint's image processor in its PIL form. Its video processor
    exists in transformers on torchvision alone; here its arithmetic is repeated.

    Args:
        checkpoint: Directory with preprocessor_config.json or processor_config.json.
        vision_config: Config of the vision tower.

    Raises:
        CheckpointError: Neither file exists, or the processor makes other patches than the tower takes.
    """

    # Defaults of transformers' Qwen2VLVideoProcessor.
    default_video: ClassVar[Mapping[str, Any]] = {
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}
    }
    default_max_video_tokens: ClassVar[int] = 128_000

    def __init__(self, checkpoint: Path, vision_config: Any) -> None:
        video_config = read_video_config(checkpoint)
        try:
            self._image = Qwen2VLImageProcessorPil.from_pretrained(checkpoint, local_files_only=True)
            self._video = Qwen2VLImageProcessorPil.from_dict({**self.default_video, **video_config})
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.name!r} has no readable preprocessor_config.json") from error
        self._merge, self._patch = int(vision_config.spatial_merge_size), int(vision_config.patch_size)
        self._frames = int(vision_config.temporal_patch_size)
        for processor in (self._image, self._video):
            sizes = processor.patch_size, processor.temporal_patch_size, processor.merge_size
            if sizes != (self._patch, self._frames, self._merge):
                raise CheckpointError(
                    f"the processor of {checkpoint.name!r} makes patches of side, frames and group {sizes},"
                    f" its vision tower takes {(self._patch, self._frames, self._merge)}"
                )
        if self._video.resample not in list(RESAMPLINGS):
            raise CheckpointError(f"resample {self._video.resample} of videos is not 2 (bilinear) or 3 (bicubic)")
        self._sampling = (
            float(video_config.get("fps") or _FRAMES_PER_SECOND),
            int(video_config.get("min_frames") or _MIN_FRAMES),
            int(video_config.get("max_frames") or _MAX_FRAMES),
        )
        self._caps_video = bool(video_config.get("cap_pixels_per_frame"))
        self._max_video_tokens = int(video_config.get("max_video_tokens") or self.default_max_video_tokens)

    def image(self, image: Image.Image, full_size: Size | None = None) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
        """Patches [1, h w, P] of an image in RGB, and the grid of its visual tokens (h and w are twice as many).

        Keeps no state, so any thread may call it.

        Args:
            image: The image, not smaller than `needed_size` of its full size.
            full_size: Its size before a decoder reduced it; None if none did.
        """
        full_size = full_size or image.size
        width, height = self.needed_size(full_size)
        # Resized here: the processor would copy the whole image to numpy and back first.
        image = images.resize(image, (width, height), self._image.resample, full_size)
        return self._patches(_channels_first(image)), self._grid(height, width)

    def needed_size(self, size: Size) -> Size:
        """Size to which an image of `size` is resized."""
        bounds = self._image.size
        height, width = self._target(size, bounds["shortest_edge"], bounds["longest_edge"])
        return width, height

    def video(self, frames: Sequence[Image.Image]) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
        """Patches [T, h w, P] of frames in RGB, and the grid of a temporal step's visual tokens.

        Two frames make one temporal step; the last frame is doubled where their number is odd.

        Raises:
            InvalidRequest: The frames have several sizes.
        """
        if len({frame.size for frame in frames}) > 1:
            raise InvalidRequest("the frames of a video must all have the same width and height", param="video")
        processor = self._video
        width, height = self.frame_size(frames[0].size, len(frames))
        # Frame by frame: a whole clip at its own size would be in memory several times.
        resized = [resize(_channels_first(frame), height, width, processor.resample) for frame in frames]
        return self._patches(_joined(resized)), self._grid(height, width)

    def frame_size(self, size: Size, num_frames: int) -> Size:
        """Size to which a frame of `size` is resized, in a video of a number of frames."""
        bounds = self._video.size
        max_pixels = bounds["longest_edge"]
        if self._caps_video:
            factor = self._patch * self._merge
            share = int(self._max_video_tokens * factor * factor * 0.9) * self._frames // num_frames
            max_pixels = max(min(max_pixels, share), int(bounds["shortest_edge"] * 1.05))
        height, width = self._target(size, bounds["shortest_edge"], max_pixels)
        return width, height

    def pixel_tables(self) -> PixelTables:
        """Tables with which the processors of images and videos rescale and normalise.

        Raises:
            CheckpointError: The image processor does something else besides.
        """
        image = calibration_image(self._patch * self._merge)
        pixel_values = self._image(images=image, do_resize=False, return_tensors="np")["pixel_values"]
        pixels = self._patches(_channels_first(image))
        rows = (-1, NUM_CHANNELS, pixels.shape[-1] // NUM_CHANNELS)
        scale = 1.0 / self._video.rescale_factor
        mean, std = (torch.tensor(values) * scale for values in (self._video.image_mean, self._video.image_std))
        return PixelTables(
            read_table(pixels.reshape(rows), pixel_values.reshape(rows)), videos=normalized_levels(mean, std)
        )

    def num_frames(self, total_frames: int, seconds: float) -> int:
        """Number of frames to sample of a file: by frame rate, within bounds, a multiple of a step, at most all."""
        return max(self._wanted_frames(total_frames, seconds) // self._frames * self._frames, 1)

    def _wanted_frames(self, total_frames: int, seconds: float) -> int:
        fps, min_frames, max_frames = self._sampling
        wanted = fps * (seconds or total_frames / UNKNOWN_FRAME_RATE)
        return int(min(max(wanted, min_frames), max_frames, total_frames))

    def sample_indices(self, total_frames: int, num_frames: int) -> list[int]:
        """Indices of the frames to sample of a file, each at most once.

        transformers' processor refuses a number above that of the file, so there is no order of repeats to reproduce.
        """
        return first_of_intervals(total_frames, min(num_frames, total_frames))

    def step_times(self, frame_times: Sequence[float]) -> tuple[float, ...]:
        """Time of each temporal step in seconds, from those of its frames; empty, because the family reads none."""
        return ()

    def _patches(self, pixels: Tensor) -> npt.NDArray[np.uint8]:
        """[F, 3, H, W] uint8 to [T, h w, P]: groups of patches in raster order, and in raster order inside a group."""
        if missing := -len(pixels) % self._frames:
            pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
        steps = pixels.unflatten(0, (-1, self._frames))
        steps = steps.unflatten(4, (-1, self._merge, self._patch)).unflatten(3, (-1, self._merge, self._patch))
        # T, frames, 3, rows, group rows, side, columns, group columns, side
        patches = steps.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(5).flatten(1, 4).contiguous()
        array: npt.NDArray[np.uint8] = patches.numpy()
        return array

    def _target(self, size: tuple[int, int], min_pixels: int, max_pixels: int) -> tuple[int, int]:
        """Height and width to which an image of `size` (width, height) is resized."""
        width, height = size
        try:
            target = smart_resize(height, width, self._patch * self._merge, min_pixels, max_pixels)
        except ValueError as error:
            raise _too_long(size, "image") from error
        return int(target[0]), int(target[1])

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        factor = self._patch * self._merge
        return height // factor, width // factor

    def describe(self) -> str:
        """Configuration as text; equal for processors that give equal results."""
        return f"{self._image.to_json_string()}{self._video.to_json_string()}{self._caps_video}{self._sampling}"


class Qwen3Pixels(QwenPixels):
    """Patches for Qwen3-VL. Bounds of pixels hold for a whole video, and frames are sampled from the first to the last.

    See `QwenPixels` for the arguments.
    """

    # Defaults of transformers' Qwen3VLVideoProcessor.
    default_video: ClassVar[Mapping[str, Any]] = {
        "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768},
        "patch_size": 16,
        "image_mean": IMAGENET_STANDARD_MEAN,
        "image_std": IMAGENET_STANDARD_STD,
    }
    default_max_video_tokens = 768

    def frame_size(self, size: Size, num_frames: int) -> Size:
        num_frames = max(num_frames, self._frames)  # a single frame is doubled
        bounds, factor = self._video.size, self._patch * self._merge
        max_pixels = bounds["longest_edge"]
        if self._caps_video:
            of_a_frame = min(self._max_video_tokens * factor * factor, bounds["longest_edge"] // num_frames)
            max_pixels = max(of_a_frame, int(bounds["shortest_edge"] * 1.05)) * num_frames
        width, height = size
        try:
            height, width = smart_resize_video(
                num_frames, height, width, self._frames, factor, bounds["shortest_edge"], max_pixels
            )
        except ValueError as error:
            raise _too_long(size, "video") from error
        return int(width), int(height)

    def num_frames(self, total_frames: int, seconds: float) -> int:
        """Number of frames to sample of a file: by frame rate, within bounds, at most all."""
        return max(self._wanted_frames(total_frames, seconds), 1)

    def sample_indices(self, total_frames: int, num_frames: int) -> list[int]:
        """Indices of the frames to sample of a file. Some are repeated if it has fewer, as by transformers."""
        return from_first_to_last(total_frames, num_frames)

    def step_times(self, frame_times: Sequence[float]) -> tuple[float, ...]:
        """Time of each temporal step in seconds: the mean of its first and its last frame."""
        times = [*frame_times, *[frame_times[-1]] * (-len(frame_times) % self._frames)]
        return tuple((times[i] + times[i + self._frames - 1]) / 2 for i in range(0, len(times), self._frames))


def _too_long(size: Size, param: str) -> InvalidRequest:
    width, height = size
    return InvalidRequest(
        f"{width:,} x {height:,} pixels: the longer side may be at most 200 times the shorter", param=param
    )


def _joined(frames: list[Tensor]) -> Tensor:
    """The frames [1, 3, H, W] in one tensor [T, 3, H, W]; empties the list, so that they are not in memory twice."""
    joined = torch.cat(frames)
    frames.clear()
    return joined


def _channels_first(frame: Image.Image) -> Tensor:
    """[1, 3, H, W] uint8."""
    return torch.from_numpy(np.array(frame)).permute(2, 0, 1).contiguous()[None]
