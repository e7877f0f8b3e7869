"""Decoding and preprocessing: from the bytes of a media file to the inputs of the vision tower, in one function."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import torch

from encoder_service.media import videos
from encoder_service.media.videos import FrameList, VideoFile, VideoLimits
from encoder_service.models.media import MediaProcessor
from encoder_service.models.media_features import TowerInputs
from fovea.media import images
from fovea.processes.worker_pool import WorkerPool

__all__ = ["MediaDecoder", "MediaItem", "MediaPool", "media_pool"]

MediaItem: TypeAlias = bytes | VideoFile | FrameList
"""An image file, a video file, or a video as a list of image files."""

MediaPool: TypeAlias = WorkerPool[MediaItem, TowerInputs]

_DEFAULT_VIDEO_LIMITS: Final = VideoLimits()


@dataclass(frozen=True, slots=True)
class MediaDecoder:
    """Decoder of media for one model. It can be pickled, and holds no state, so any thread or process may call it.

    Attributes:
        media: Media processor of the model's family.
        max_image_bytes: Largest size of an image file, in bytes.
        max_image_pixels: Largest number of pixels of an image.
        video_limits: Limits of videos.
    """

    media: MediaProcessor
    max_image_bytes: int
    max_image_pixels: int
    video_limits: VideoLimits = field(default=_DEFAULT_VIDEO_LIMITS)

    def __call__(self, item: MediaItem) -> TowerInputs:
        """Tower inputs of an image or video.

        Raises:
            ServiceError: See `images.decode` and `videos.decode`.
        """
        if isinstance(item, bytes):
            limits = {"max_bytes": self.max_image_bytes, "max_pixels": self.max_image_pixels}
            if not self.media.reduces_jpeg:
                return self.media.image(images.decode(item, **limits))
            return self.media.image(*images.decode_reduced(item, **limits, needed_size=self.media.needed_size))
        return self.media.video(videos.decode(item, self.media.num_frames, self.video_limits))


def media_pool(decoder: MediaDecoder, *, size: int) -> MediaPool:
    """Worker processes that decode media with `decoder`, each one file at a time."""
    one_thread = functools.partial(torch.set_num_threads, 1)  # there is a worker for each core
    return WorkerPool(decoder, size=size, initialize=one_thread)
