"""From the bytes of a media file to what the vision tower takes: decoding and preprocessing, one function."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import torch

from encoder_service import videos
from encoder_service.models.media import MediaProcessor
from encoder_service.videos import FrameList, VideoFile, VideoLimits
from encoder_service.visual import TowerInputs
from fovea.media import images
from fovea.processes.worker_pool import WorkerPool

__all__ = ["MediaDecoder", "MediaPool", "MediaSource", "media_pool"]

MediaSource: TypeAlias = bytes | VideoFile | FrameList
"""An image file, a video file, or a video as a list of image files."""

MediaPool: TypeAlias = WorkerPool[MediaSource, TowerInputs]

_DEFAULT_VIDEO_LIMITS: Final = VideoLimits()


@dataclass(frozen=True, slots=True)
class MediaDecoder:
    """Decoder of media for one model. It can be pickled, and holds no state, so any thread or process may call it.

    Attributes:
        media: what the model's family makes of decoded media.
        max_image_bytes: most bytes of an image file.
        max_image_pixels: most pixels of an image.
        video_limits: what videos may be.
    """

    media: MediaProcessor
    max_image_bytes: int
    max_image_pixels: int
    video_limits: VideoLimits = field(default=_DEFAULT_VIDEO_LIMITS)

    def __call__(self, source: MediaSource) -> TowerInputs:
        """Pixel values of an image or a video.

        Raises:
            ServiceError: see `images.decode` and `videos.decode`.
        """
        if isinstance(source, bytes):
            image = images.decode(source, max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)
            return self.media.image(image)
        return self.media.video(videos.decode(source, self.media.num_frames, self.video_limits))


def media_pool(decoder: MediaDecoder, *, size: int) -> MediaPool:
    """Processes that decode media with `decoder`, one file at a time each."""
    one_thread = functools.partial(torch.set_num_threads, 1)  # there is a worker for each core
    return WorkerPool(decoder, size=size, initialize=one_thread)
