"""Decoding of videos: from a video file, or a list of frames, to sampled RGB frames, with limits on memory and time.

n of T frames are sampled by the rule of the family, see `FrameSampling`. T is the number of frames that can be shown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from PIL import Image

from encoder_service.media.video_containers import broken_video, open_video
from encoder_service.media.video_facts import Clock, VideoFacts, check_bytes, measure
from encoder_service.media.video_frames import display_size, to_image
from encoder_service.media.video_limits import VideoLimits
from encoder_service.models.media_features import VideoFrames
from fovea.errors import InvalidRequest, ServiceError, TooLarge
from fovea.media import images
from fovea.media.image_headers import ImageHeader

__all__ = [
    "FrameList",
    "FrameSampling",
    "VideoFile",
    "VideoItem",
    "VideoLimits",
    "check_frames",
    "decode",
    "num_sampled",
    "read_headers",
]

_NO_SECONDS: Final = 0.0


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video as a file.

    Attributes:
        data: Bytes of an MP4, WebM, MKV, AVI, MOV or GIF file.
        num_frames: Number of frames to sample; 0 for the model's own number.
    """

    data: bytes
    num_frames: int = 0

    @property
    def digest(self) -> bytes:
        """SHA-256 of the file and of the number of frames to sample."""
        return hashlib.sha256(b"file %d " % self.num_frames + hashlib.sha256(self.data).digest()).digest()


@dataclass(frozen=True, slots=True)
class FrameList:
    """A video as a list of sampled frames.

    Attributes:
        images: Image files of one size, in the order of time.
        seconds_per_frame: Time from one frame to the next; 0: unknown.
    """

    images: tuple[bytes, ...]
    seconds_per_frame: float = _NO_SECONDS

    @property
    def digest(self) -> bytes:
        """SHA-256 of the frames and of the time between them."""
        frames = b"".join(hashlib.sha256(image).digest() for image in self.images)
        return hashlib.sha256(b"frames %s " % self.seconds_per_frame.hex().encode() + frames).digest()


VideoItem: TypeAlias = VideoFile | FrameList


class FrameSampling(Protocol):
    """Frames of a video file that a family takes. Every `MediaProcessor` of a family with videos has one."""

    def num_frames(self, total_frames: int, seconds: float) -> int:
        """Number of frames to sample of a file, for a request that has none.

        Args:
            total_frames: Number of frames in the file, at least 1.
            seconds: Duration of the file; 0 if it is unknown.
        """
        ...

    def sample_indices(self, total_frames: int, num_frames: int) -> list[int]:
        """Indices of the frames that are sampled, ascending. Of a file with fewer they are all, or some are repeated,
        by the family."""
        ...


def decode(
    video: VideoItem, sampling: FrameSampling, limits: VideoLimits, facts: VideoFacts | None = None
) -> VideoFrames:
    """The sampled frames of a video as a player shows them: upright, with square pixels, in RGB and of one size.

    Transparent areas become white, as in images. HDR is not mapped to SDR.

    Args:
        video: A video file or a list of frames.
        sampling: Frames to sample of a file. The number is used for a video without `num_frames`, up to
            `limits.max_frames`.
        limits: Limits of videos.
        facts: Facts about a video file; None: they are measured here.

    Raises:
        TooLarge: The bytes, pixels or duration exceed the limits.
        UnsupportedMedia: The format is not supported, or the file has no video or is broken.
        InvalidRequest: There are no frames, too many, frames of different sizes, or of a side ratio above 100.
    """
    match video:
        case VideoFile():
            return _decode_file(video, facts, sampling, limits)
        case FrameList():
            return _decode_list(video, limits)


def read_headers(video: FrameList, limits: VideoLimits) -> list[ImageHeader]:
    """Headers of the images of a list of frames, within the limits; see `decode`."""
    if not video.images:
        raise InvalidRequest("the video has no frames; at least 1 is needed", param="video")
    check_frames(len(video.images), limits)
    check_bytes(sum(map(len, video.images)), limits)
    headers = []
    for number, data in enumerate(video.images):
        with _errors_of_frame(number):
            headers.append(images.read_checked_header(data, limits.max_bytes, limits.max_frame_pixels))
    _check_pixels(headers[0].width, headers[0].height, len(headers), limits)
    return headers


def _decode_list(video: FrameList, limits: VideoLimits) -> VideoFrames:
    read_headers(video, limits)
    frames: list[Image.Image] = []
    for number, data in enumerate(video.images):
        with _errors_of_frame(number):
            frames.append(images.decode(data, max_bytes=limits.max_bytes, max_pixels=limits.max_frame_pixels))
        _check_same_size(frames[0], frames[-1])
    return VideoFrames(tuple(frames), video.seconds_per_frame)


@contextmanager
def _errors_of_frame(number: int) -> Iterator[None]:
    """Context whose errors name a frame of a list."""
    try:
        yield
    except ServiceError as error:
        raise type(error)(f"frame {number} of the video: {error.message}", param="video") from error


def num_sampled(video: VideoFile, facts: VideoFacts, sampling: FrameSampling, limits: VideoLimits) -> int:
    """Number of frames that are sampled of a video file, those that are repeated included.

    Raises:
        InvalidRequest: There are more than `limits.max_frames`.
    """
    check_frames(video.num_frames, limits)
    count = video.num_frames or max(1, min(sampling.num_frames(facts.total, facts.seconds), limits.max_frames))
    return len(sampling.sample_indices(facts.total, count))


def _decode_file(
    video: VideoFile, facts: VideoFacts | None, sampling: FrameSampling, limits: VideoLimits
) -> VideoFrames:
    facts = facts or measure(video.data, limits)
    clock = Clock(limits.timeout_s, facts.took_s)
    indices = sampling.sample_indices(facts.total, num_sampled(video, facts, sampling, limits))
    frames, decoded = _frames_at(video.data, facts.first, indices, clock, limits)
    if len(frames) < len(indices):
        # Some packets show no frame, as in VP8 or in a truncated file. The number of frames is now known.
        if not decoded:
            raise broken_video()
        facts = dataclasses.replace(facts, total=decoded)
        indices = sampling.sample_indices(decoded, num_sampled(video, facts, sampling, limits))
        frames, _ = _frames_at(video.data, facts.first, indices, clock, limits)
    return VideoFrames(
        tuple(frames),
        facts.total / (facts.rate * len(frames)) if facts.rate else _NO_SECONDS,
        tuple(index / facts.rate for index in indices) if facts.rate else (),
    )


def _frames_at(
    data: bytes, first: int, indices: list[int], clock: Clock, limits: VideoLimits
) -> tuple[list[Image.Image], int]:
    """Frames at the given ascending indices, up to the end of the file, and the number of decoded frames.

    Indices count from the packet with the number `first`.
    """
    frames: list[Image.Image] = []
    decoded = 0
    with open_video(data, max_pixels=limits.max_frame_pixels) as (container, stream):
        aspect = stream.sample_aspect_ratio
        size = display_size(stream.codec_context.width, stream.codec_context.height, aspect)
        _check_pixels(*size, len(set(indices)), limits)
        for frame in _decoded(itertools.islice(container.demux(stream), first, None), clock):
            while len(frames) < len(indices) and indices[len(frames)] == decoded:
                if not frames or indices[len(frames) - 1] != decoded:
                    size = display_size(frame.width, frame.height, aspect)
                    _check_pixels(*size, len(set(indices)), limits)
                    images.check_size(*size, limits.max_frame_pixels, what="video", param="video")
                    image = to_image(frame, size)
                frames.append(image)
                _check_same_size(frames[0], image)
            decoded += 1
            if len(frames) == len(indices):
                break
    return frames, decoded


def _decoded(packets: Iterable[Any], clock: Clock) -> Iterator[Any]:
    for packet in packets:
        clock.check()
        yield from packet.decode()


def check_frames(count: int, limits: VideoLimits) -> None:
    """Checks the number of frames of a list, or those to sample of a file.

    Raises:
        InvalidRequest: There are more than `limits.max_frames`.
    """
    if count > limits.max_frames:
        raise InvalidRequest(f"{count} frames of a video; at most {limits.max_frames} are accepted", param="video")


def _check_pixels(width: int, height: int, num_frames: int, limits: VideoLimits) -> None:
    if width * height * num_frames > limits.max_pixels:
        raise TooLarge(
            f"{num_frames} frames of {width:,} x {height:,} pixels are sampled; at most {limits.max_pixels:,} pixels"
            " in all are accepted",
            param="video",
        )


def _check_same_size(first: Image.Image, other: Image.Image) -> None:
    if other.size != first.size:
        raise InvalidRequest(
            f"the video's frames have different sizes, {first.width} x {first.height} and"
            f" {other.width} x {other.height}; one size is accepted",
            param="video",
        )
