"""Media processors: from decoded images and videos to tower inputs, one class for each kind of family.

Processors run in the processes that decode media. They can be pickled, and have no weights and no device.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Final, Protocol, Self

from PIL import Image

from encoder_service.models.anyres import TileCutter
from encoder_service.models.frame_sampling import first_of_intervals
from encoder_service.models.frames import FrameProcessor
from encoder_service.models.media_features import UNKNOWN_FRAME_RATE, PatchLayout, TowerInputs, VideoFrames
from encoder_service.models.pixel_table import PixelTables
from encoder_service.models.preprocessing import ImageProcessor
from encoder_service.models.qwen_pixels import QwenPixels
from encoder_service.pruners.tile_mosaic import mosaic
from fovea.errors import TooLarge
from fovea.media.images import Size
from fovea.wire.image_fits import ImageFit

__all__ = ["MediaOptions", "MediaProcessor", "QwenMedia", "SquareMedia", "TiledMedia"]

_VIDEO_LLAVA_FRAMES: Final = 8


@dataclass(frozen=True, slots=True)
class MediaOptions:
    """Options of a request for the preprocessing of its images and videos.

    Attributes:
        image_fit: Fit of images and frames to the square of the tower; one of `MediaProcessor.image_fits`.
    """

    image_fit: ImageFit = "crop"

    @property
    def fingerprint(self) -> str:
        """16 hex digits that differ for different options; empty for the defaults."""
        return "" if self == MediaOptions() else hashlib.sha256(f"{self}".encode()).hexdigest()[:16]

    def check_size(self, size: Size, max_pixels: int, *, param: str) -> None:
        """Checks the largest image that preprocessing makes of a decoded image or frame.

        Args:
            size: Size of the decoded image or frame.
            max_pixels: Largest number of pixels.
            param: Field of the request, image or video.

        Raises:
            TooLarge: The square around it has too many pixels.
        """
        side = max(size)
        if self.image_fit == "pad" and side * side > max_pixels:
            raise TooLarge(
                f"the {param} has {size[0]:,} x {size[1]:,} pixels, and {side:,} x {side:,} with image_fit pad; at most"
                f" {max_pixels:,} in all are accepted. image_fit crop adds none",
                param=param,
            )


class MediaProcessor(Protocol):
    """Processor of the images and videos of a family."""

    @property
    def reduces_jpeg(self) -> bool:
        """Whether JPEG images are decoded at a reduced scale where that leaves `needed_size`."""
        ...

    @property
    def image_fits(self) -> tuple[ImageFit, ...]:
        """Fits that it accepts; the first is that of the checkpoint's processor."""
        ...

    def with_options(self, options: MediaOptions) -> Self:
        """The processor with the options of a request, which it accepts."""
        ...

    def image(self, image: Image.Image, full_size: Size | None = None) -> TowerInputs:
        """Tower inputs of an RGB image.

        Args:
            image: The image, not smaller than `needed_size` of its full size.
            full_size: Its size before a decoder reduced it; None if none did.
        """
        ...

    def needed_size(self, size: Size) -> Size:
        """Size to which an image of `size` is resized, the largest if there are several; `size` if it is unknown."""
        ...

    def video(self, video: VideoFrames) -> TowerInputs:
        """Tower inputs of a video. Only for a family that takes videos."""
        ...

    def num_frames(self, total_frames: int, seconds: float) -> int:
        """Number of frames to sample of a video file if the request has none, before the service's limit is applied.

        Args:
            total_frames: Number of frames in the file, at least 1.
            seconds: Duration of the file; 0 if it is unknown.
        """
        ...

    def sample_indices(self, total_frames: int, num_frames: int) -> list[int]:
        """Indices of the frames to sample of a video file, see `FrameSampling`."""
        ...

    def resized_pixels(self, size: Size, num_frames: int) -> int:
        """Pixels of the resized frames of a video that are in memory at once. Only for a family that takes videos.

        Args:
            size: Size of a frame.
            num_frames: Number of frames.
        """
        ...

    def pixel_tables(self) -> PixelTables:
        """Tables that turn the pixels of the tower inputs into pixel values.

        Raises:
            CheckpointError: The checkpoint's processor does not work by table.
        """
        ...

    def describe(self) -> str:
        """Configuration as text; equal for processors that give equal results."""
        ...


class _WholeImages:
    @property
    def image_fits(self) -> tuple[ImageFit, ...]:
        return ("crop",)

    def with_options(self, options: MediaOptions) -> Self:
        return self


class _ImagesOnly:
    def video(self, video: VideoFrames) -> TowerInputs:
        raise NotImplementedError("this family takes no videos")

    def num_frames(self, total_frames: int, seconds: float) -> int:
        raise NotImplementedError("this family takes no videos")

    def sample_indices(self, total_frames: int, num_frames: int) -> list[int]:
        raise NotImplementedError("this family takes no videos")

    def resized_pixels(self, size: Size, num_frames: int) -> int:
        raise NotImplementedError("this family takes no videos")


@dataclass(frozen=True, slots=True)
class SquareMedia:
    """Processor of one square of an image or of each frame of a video (LLaVA-1.5, Video-LLaVA).

    Attributes:
        images: Processor of images.
        grid: Rows and columns of patches of a square.
        frames: Processor of frames; None for a family that takes no videos.
        reduces_jpeg: See `MediaProcessor`.
        fit: Fit of images and frames to the square.
    """

    images: ImageProcessor
    grid: tuple[int, int]
    frames: FrameProcessor | None = None
    reduces_jpeg: bool = False
    fit: ImageFit = "crop"

    @property
    def image_fits(self) -> tuple[ImageFit, ...]:
        return self.images.fits

    def with_options(self, options: MediaOptions) -> Self:
        return dataclasses.replace(self, fit=options.image_fit)

    def image(self, image: Image.Image, full_size: Size | None = None) -> TowerInputs:
        viewed = self.images.viewed(full_size or image.size, self.fit)
        return TowerInputs(self.images(image, full_size, self.fit)[None], PatchLayout(1, *self.grid, viewed=viewed))

    def needed_size(self, size: Size) -> Size:
        return self.images.needed_size(size, self.fit)

    def video(self, video: VideoFrames) -> TowerInputs:
        if self.frames is None:
            raise NotImplementedError("this family takes no videos")
        viewed = self.frames.viewed(video.frames[0].size, self.fit)
        layout = PatchLayout(len(video.frames), *self.grid, cls_per_input=1, is_video=True, viewed=viewed)
        return TowerInputs(self.frames(video.frames, self.fit), layout)

    def num_frames(self, total_frames: int, seconds: float) -> int:
        return _VIDEO_LLAVA_FRAMES

    def sample_indices(self, total_frames: int, num_frames: int) -> list[int]:
        return first_of_intervals(total_frames, num_frames)

    def resized_pixels(self, size: Size, num_frames: int) -> int:
        if self.frames is None:
            raise NotImplementedError("this family takes no videos")
        # The frames are resized one after the other, and the squares that are cut out of them are kept.
        width, height = self.frames.resized_size(size if self.fit == "crop" else (max(size), max(size)))
        return width * height + num_frames * min(width, height) ** 2

    def pixel_tables(self) -> PixelTables:
        return PixelTables(self.images.pixel_table(), self.frames.pixel_table() if self.frames else None)

    def describe(self) -> str:
        frames = f" {self.frames.describe()}" if self.frames else ""
        return self.images.describe() + frames + _describe_decoding(self)


@dataclass(frozen=True, slots=True)
class TiledMedia(_WholeImages, _ImagesOnly):
    """Processor of the base tile of an image and of the tiles of a large version of it (LLaVA-NeXT).

    Attributes:
        tiles: Cutter of the tiles.
        grid: Rows and columns of patches of a tile.
        reduces_jpeg: See `MediaProcessor`.
    """

    tiles: TileCutter
    grid: tuple[int, int]
    reduces_jpeg: bool = False

    def image(self, image: Image.Image, full_size: Size | None = None) -> TowerInputs:
        pixels, tile_grid = self.tiles(image, full_size)
        width, height = full_size or image.size
        return TowerInputs(
            pixels, PatchLayout(len(pixels), *self.grid, mosaic=mosaic(self.grid, tile_grid, (height, width)))
        )

    def needed_size(self, size: Size) -> Size:
        return self.tiles.needed_size(size)

    def pixel_tables(self) -> PixelTables:
        return PixelTables(self.tiles.pixel_table())

    def describe(self) -> str:
        return self.tiles.describe() + _describe_decoding(self)


@dataclass(frozen=True, slots=True)
class QwenMedia(_WholeImages):
    """Processor of images and videos at their own resolution (Qwen2.5-VL, Qwen3-VL).

    Attributes:
        pixels: Processor of the pixels of images and videos.
        frames_per_step: Number of frames of a video in one tower input.
        reduces_jpeg: See `MediaProcessor`.
    """

    pixels: QwenPixels
    frames_per_step: int
    reduces_jpeg: bool = False

    def image(self, image: Image.Image, full_size: Size | None = None) -> TowerInputs:
        patches, grid = self.pixels.image(image, full_size)
        return TowerInputs(patches, PatchLayout(1, *grid))

    def needed_size(self, size: Size) -> Size:
        return self.pixels.needed_size(size)

    def video(self, video: VideoFrames) -> TowerInputs:
        patches, grid = self.pixels.video(video.frames)
        layout = PatchLayout(
            len(patches),
            *grid,
            is_video=True,
            seconds_per_frame=self.frames_per_step * (video.seconds_per_frame or 1 / UNKNOWN_FRAME_RATE),
            frame_times=self.pixels.step_times(video.frame_times()),
        )
        return TowerInputs(patches, layout)

    def num_frames(self, total_frames: int, seconds: float) -> int:
        return self.pixels.num_frames(total_frames, seconds)

    def sample_indices(self, total_frames: int, num_frames: int) -> list[int]:
        return self.pixels.sample_indices(total_frames, num_frames)

    def resized_pixels(self, size: Size, num_frames: int) -> int:
        width, height = self.pixels.frame_size(size, num_frames)
        return width * height * (num_frames + 1)

    def pixel_tables(self) -> PixelTables:
        return self.pixels.pixel_tables()

    def describe(self) -> str:
        return self.pixels.describe() + _describe_decoding(self)


def _describe_decoding(media: MediaProcessor) -> str:
    return " JPEG at a reduced scale" if media.reduces_jpeg else ""
