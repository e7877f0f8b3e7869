"""Decoding and preprocessing: from the bytes of a media file to the inputs of the vision tower, in one function."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import torch

from encoder_service.media import videos
from encoder_service.media.videos import FrameList, VideoFile, VideoLimits
from encoder_service.models.media import MediaOptions, MediaProcessor
from encoder_service.models.media_features import TowerInputs
from fovea.media import images
from fovea.processes.worker_pool import WorkerPool

__all__ = ["MediaDecoder", "MediaItem", "MediaPool", "media_digest", "media_pool"]

MediaItem: TypeAlias = bytes | VideoFile | FrameList
"""An image file, a video file, or a video as a list of image files."""

_DEFAULT_VIDEO_LIMITS: Final = VideoLimits()
_DEFAULT_OPTIONS: Final = MediaOptions()


def media_digest(item: MediaItem, options: MediaOptions = _DEFAULT_OPTIONS) -> bytes:
    """SHA-256 of what the tower inputs depend on: of the file alone if all options have their defaults."""
    digest = hashlib.sha256(item).digest() if isinstance(item, bytes) else item.digest
    fingerprint = options.fingerprint
    return hashlib.sha256(fingerprint.encode() + digest).digest() if fingerprint else digest


MediaPool: TypeAlias = WorkerPool[TowerInputs, MediaItem, MediaOptions]


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

    def __call__(self, item: MediaItem, options: MediaOptions = _DEFAULT_OPTIONS) -> TowerInputs:
        """Tower inputs of an image or video.

        Args:
            item: The image or video.
            options: Options of the request.

        Raises:
            ServiceError: See `images.decode`, `videos.decode` and `MediaOptions.check_size`.
        """
        media = self.media.with_options(options)
        if not isinstance(item, bytes):
            video = videos.decode(item, media.num_frames, self.video_limits)
            options.check_size(video.frames[0].size, self.video_limits.max_frame_pixels, param="video")
            return media.video(video)
        limits = {"max_bytes": self.max_image_bytes, "max_pixels": self.max_image_pixels}
        if media.reduces_jpeg:
            image, full_size = images.decode_reduced(item, **limits, needed_size=media.needed_size)
        else:
            image = images.decode(item, **limits)
            full_size = image.size
        options.check_size(full_size, self.max_image_pixels, param="image")
        return media.image(image, full_size)


def media_pool(decoder: MediaDecoder, *, size: int) -> MediaPool:
    """Worker processes that decode media with `decoder`, each one file at a time."""
    one_thread = functools.partial(torch.set_num_threads, 1)  # there is a worker for each core
    return WorkerPool(decoder, size=size, initialize=one_thread)
