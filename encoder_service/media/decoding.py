"""Decoding and preprocessing: from the bytes of a media file to the inputs of the vision tower, in one function."""

from __future__ import annotations

import functools
import hashlib
import sys
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import torch

from encoder_service.media import videos
from encoder_service.media.decode_cost import file_bytes, frame_list_bytes, image_bytes, video_bytes
from encoder_service.media.video_facts import MEASURE_BYTES, VideoFacts, measure
from encoder_service.media.videos import FrameList, VideoFile, VideoLimits
from encoder_service.models.media import MediaOptions, MediaProcessor
from encoder_service.models.media_features import TowerInputs
from fovea.errors import TooLarge
from fovea.media import images
from fovea.processes.memory_limit import growth_limited
from fovea.processes.worker_pool import WorkerPool

__all__ = ["Measured", "MediaDecoder", "MediaItem", "MediaPool", "Unmeasured", "media_digest", "media_pool"]

MediaItem: TypeAlias = bytes | VideoFile | FrameList
"""An image file, a video file, or a video as a list of image files."""

_DEFAULT_VIDEO_LIMITS: Final = VideoLimits()
_DEFAULT_OPTIONS: Final = MediaOptions()
_NO_MEMORY: Final = "can't allocate memory"
"""Part of the RuntimeError that torch raises instead of MemoryError."""
_SLACK_BYTES: Final = 64 * 2**20
"""Memory that a process may take beside what a file needs: heaps of threads, code that is loaded on first use."""


def media_digest(item: MediaItem, options: MediaOptions = _DEFAULT_OPTIONS) -> bytes:
    """SHA-256 of what the tower inputs depend on: of the file alone if all options have their defaults."""
    digest = hashlib.sha256(item).digest() if isinstance(item, bytes) else item.digest
    fingerprint = options.fingerprint
    return hashlib.sha256(fingerprint.encode() + digest).digest() if fingerprint else digest


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A video file whose facts a worker is asked for."""

    video: VideoFile


@dataclass(frozen=True, slots=True)
class Measured:
    """A video file to decode, with its facts."""

    video: VideoFile
    facts: VideoFacts


MediaPool: TypeAlias = WorkerPool[TowerInputs | VideoFacts, MediaItem | Unmeasured | Measured, MediaOptions]


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

    def __call__(self, item: MediaItem | Measured, options: MediaOptions = _DEFAULT_OPTIONS) -> TowerInputs:
        """Tower inputs of an image or video.

        Args:
            item: The image or video.
            options: Options of the request.

        Raises:
            ServiceError: See `images.decode`, `videos.decode` and `MediaOptions.check_size`.
        """
        media = self.media.with_options(options)
        if not isinstance(item, bytes):
            video, facts = (item.video, item.facts) if isinstance(item, Measured) else (item, None)
            decoded = videos.decode(video, media, self.video_limits, facts)
            options.check_size(decoded.frames[0].size, self.video_limits.max_frame_pixels, param="video")
            return media.video(decoded)
        limits = {"max_bytes": self.max_image_bytes, "max_pixels": self.max_image_pixels}
        if media.reduces_jpeg:
            image, full_size = images.decode_reduced(item, **limits, needed_size=media.needed_size)
        else:
            image = images.decode(item, **limits)
            full_size = image.size
        options.check_size(full_size, self.max_image_pixels, param="image")
        return media.image(image, full_size)

    def memory(self, item: MediaItem | Unmeasured | Measured, options: MediaOptions = _DEFAULT_OPTIONS) -> int:
        """Memory in bytes that a worker needs for an image or video, from its header, and within which it is kept.

        Raises:
            ServiceError: The header cannot be read or exceeds a limit, as does the number of frames.
        """
        media = self.media.with_options(options)
        match item:
            case bytes():
                header = images.read_checked_header(item, self.max_image_bytes, self.max_image_pixels)
                return image_bytes(header, len(item), media, options)
            case FrameList():
                headers = videos.read_headers(item, self.video_limits)
                return frame_list_bytes(headers, sum(map(len, item.images)), media, options)
            case Measured(video, facts):
                num_frames = videos.num_sampled(video, facts, media, self.video_limits)
                return video_bytes(facts, num_frames, len(video.data), media, options)
            case Unmeasured(video) | (VideoFile() as video):
                return file_bytes(len(video.data)) + MEASURE_BYTES

    def run(self, item: MediaItem | Unmeasured | Measured, options: MediaOptions) -> TowerInputs | VideoFacts:
        """What a worker does: `__call__`, or the facts about a video file, within `memory`.

        Raises:
            ServiceError: See `__call__` and `video_facts.measure`.
            TooLarge: The file needs more memory than its header tells.
        """
        try:
            with growth_limited(self.memory(item, options) + _SLACK_BYTES):
                return (
                    measure(item.video.data, self.video_limits) if isinstance(item, Unmeasured) else self(item, options)
                )
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and _NO_MEMORY not in str(error):
                raise
            raise TooLarge(
                "the file takes more memory to decode than its size explains; files as ordinary encoders write them"
                " are accepted",
                param="image" if isinstance(item, bytes) else "video",
            ) from None


def media_pool(decoder: MediaDecoder, *, size: int, max_bytes: int = sys.maxsize) -> MediaPool:
    """Worker processes that decode media with `decoder`, each one file at a time, within `max_bytes` together."""
    one_thread = functools.partial(torch.set_num_threads, 1)  # there is a worker for each core
    return WorkerPool(decoder.run, size=size, initialize=one_thread, max_bytes=max_bytes)
