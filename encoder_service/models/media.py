"""From decoded images and videos to what a vision tower takes, one class for each way in which families do it.

None of them holds a weight or a device, and all can be pickled: they work in the processes that decode media.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from PIL import Image

from encoder_service.models.anyres import TileCutter
from encoder_service.models.frames import FrameProcessor
from encoder_service.models.preprocessing import ImageProcessor
from encoder_service.models.qwen_pixels import QwenPixels
from encoder_service.pruners.tile_mosaic import mosaic
from encoder_service.visual import PatchLayout, TowerInputs, VideoFrames

__all__ = ["MediaProcessor", "QwenMedia", "SquareMedia", "TiledMedia"]

_VIDEO_LLAVA_FRAMES: Final = 8
# What transformers takes where a video does not say how its frames lie in time.
_DEFAULT_SECONDS_PER_FRAME: Final = 1 / 24


class MediaProcessor(Protocol):
    """What a family makes of its media."""

    def image(self, image: Image.Image) -> TowerInputs:
        """An RGB image as the tower takes it."""
        ...

    def video(self, video: VideoFrames) -> TowerInputs:
        """A video as the tower takes it, where the family takes any."""
        ...

    def num_frames(self, total_frames: int, seconds: float) -> int:
        """Frames to sample of a video file, unless the request says; the service cuts it to its own limit.

        Args:
            total_frames: number of frames in the file, at least 1.
            seconds: duration of the file; 0 where it is not known.
        """
        ...

    def describe(self) -> str:
        """Configuration, the same text for the same numbers."""
        ...


class _ImagesOnly:
    def video(self, video: VideoFrames) -> TowerInputs:
        raise NotImplementedError("this family takes no videos")

    def num_frames(self, total_frames: int, seconds: float) -> int:
        raise NotImplementedError("this family takes no videos")


@dataclass(frozen=True, slots=True)
class SquareMedia:
    """The middle square of an image, or of each frame of a video (LLaVA-1.5, Video-LLaVA).

    Attributes:
        images: processor of images.
        grid: rows and columns of patches of a square.
        frames: processor of frames; None for a family that takes no videos.
    """

    images: ImageProcessor
    grid: tuple[int, int]
    frames: FrameProcessor | None = None

    def image(self, image: Image.Image) -> TowerInputs:
        return TowerInputs(self.images(image)[None], PatchLayout(1, *self.grid))

    def video(self, video: VideoFrames) -> TowerInputs:
        if self.frames is None:
            raise NotImplementedError("this family takes no videos")
        return TowerInputs(
            self.frames(video.frames), PatchLayout(len(video.frames), *self.grid, cls_per_input=1, is_video=True)
        )

    def num_frames(self, total_frames: int, seconds: float) -> int:
        return _VIDEO_LLAVA_FRAMES

    def describe(self) -> str:
        return self.images.describe() + (f" {self.frames.describe()}" if self.frames else "")


@dataclass(frozen=True, slots=True)
class TiledMedia(_ImagesOnly):
    """The base tile of an image and the tiles of a large version of it (LLaVA-NeXT).

    Attributes:
        tiles: cutter of the tiles.
        grid: rows and columns of patches of a tile.
    """

    tiles: TileCutter
    grid: tuple[int, int]

    def image(self, image: Image.Image) -> TowerInputs:
        pixel_values, tile_grid = self.tiles(image)
        layout = PatchLayout(
            len(pixel_values), *self.grid, mosaic=mosaic(self.grid, tile_grid, (image.height, image.width))
        )
        return TowerInputs(pixel_values, layout)

    def describe(self) -> str:
        return self.tiles.describe()


@dataclass(frozen=True, slots=True)
class QwenMedia:
    """Patches of an image or a video at their own resolution (Qwen2.5-VL).

    Attributes:
        pixels: processor of both.
        frames_per_step: frames of a video that make one step in time.
    """

    pixels: QwenPixels
    frames_per_step: int

    def image(self, image: Image.Image) -> TowerInputs:
        patches, grid = self.pixels.picture(image)
        return TowerInputs(patches, PatchLayout(1, *grid))

    def video(self, video: VideoFrames) -> TowerInputs:
        patches, grid = self.pixels.video(video.frames)
        seconds = self.frames_per_step * (video.seconds_per_frame or _DEFAULT_SECONDS_PER_FRAME)
        return TowerInputs(patches, PatchLayout(len(patches), *grid, is_video=True, seconds_per_frame=seconds))

    def num_frames(self, total_frames: int, seconds: float) -> int:
        return self.pixels.num_frames(total_frames, seconds)

    def describe(self) -> str:
        return self.pixels.describe()
