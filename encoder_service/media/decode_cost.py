"""Memory that a worker needs for an image or a video, from headers: an upper bound, in bytes.

The factors are measured by `benchmarks/safety/media_cost.py`. A worker is held to its bound by a limit of the kernel,
so a file that needs more than its header tells fails alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from encoder_service.media.video_facts import VideoFacts
from encoder_service.models.media import MediaOptions, MediaProcessor
from fovea.media.image_headers import ImageFormat, ImageHeader
from fovea.media.images import Size

__all__ = ["file_bytes", "frame_list_bytes", "image_bytes", "video_bytes"]

_BASE_BYTES: Final = 32 * 2**20
"""Buffers that do not depend on the file."""
_FILE_COPIES: Final = 3
"""Copies of a file in a worker: the message, its content, and the file without metadata."""
_FORMAT_BYTES: Final = {ImageFormat.WEBP: 40 * 2**20, ImageFormat.PNG: 16 * 2**20}
"""Memory that a format takes beside its pixels. WebP: prefix codes, in 2,600 groups of 17 kB, which encoders do not
exceed. PNG: EXIF that ImageMagick wrote as compressed text."""
_RGB_BYTES: Final = 4
"""Bytes of a pixel in an RGB image of Pillow."""
_RESIZED_BYTES: Final = 24
"""Bytes for each pixel of a resized image while it becomes tower inputs."""
_RESIZED_FRAME_BYTES: Final = 14
"""Bytes for each pixel of the resized frames while they become tower inputs."""
_CONVERTED_BYTES: Final = 26
"""Bytes for each pixel of the decoded frame that becomes an image."""
_FRAME_BYTES: Final = 12
"""Bytes for each pixel of the frame that is being resized."""
_INDEX_BYTES: Final = 64
"""Bytes for each packet in the index of a container."""


def file_bytes(size: int) -> int:
    """Memory for the copies of a file of `size` bytes, and for what every file needs."""
    return _BASE_BYTES + _FILE_COPIES * size


def image_bytes(header: ImageHeader, file_size: int, media: MediaProcessor, options: MediaOptions) -> int:
    """Memory for an image.

    Args:
        header: Header of the file.
        file_size: Bytes of the file.
        media: Media processor of the model's family, with the options of the request.
        options: Options of the request.
    """
    size: Size = (header.width, header.height)
    width, height = media.needed_size(size)
    pixels = header.num_pixels + _padded_pixels(size, options)
    processing = _RGB_BYTES * pixels + _RESIZED_BYTES * width * height
    return file_bytes(file_size) + max(_decoded_bytes(header), processing)


def frame_list_bytes(
    headers: Sequence[ImageHeader], file_size: int, media: MediaProcessor, options: MediaOptions
) -> int:
    """Memory for a video as a list of images; see `image_bytes`.

    Args:
        headers: Headers of the images, at least one.
        file_size: Bytes of all files together.
        media: See `image_bytes`.
        options: See `image_bytes`.
    """
    size: Size = (headers[0].width, headers[0].height)
    frames = _RGB_BYTES * sum(header.num_pixels for header in headers)
    processing = _processing_bytes(size, len(headers), media, options)
    return file_bytes(file_size) + frames + max(processing, *map(_decoded_bytes, headers))


def video_bytes(
    facts: VideoFacts, num_frames: int, file_size: int, media: MediaProcessor, options: MediaOptions
) -> int:
    """Memory for a video file; see `image_bytes`.

    Args:
        facts: Facts about the file.
        num_frames: Number of frames that are sampled.
        file_size: Bytes of the file.
        media: See `image_bytes`.
        options: See `image_bytes`.
    """
    width, height = facts.size
    frames = _RGB_BYTES * min(num_frames, facts.total) * width * height
    decoding = facts.decoder_bytes + _CONVERTED_BYTES * width * height + _INDEX_BYTES * facts.total
    return file_bytes(file_size) + frames + max(decoding, _processing_bytes(facts.size, num_frames, media, options))


def _processing_bytes(size: Size, num_frames: int, media: MediaProcessor, options: MediaOptions) -> int:
    """Memory for preprocessing of frames, beside the frames."""
    frame = _FRAME_BYTES * (_padded_pixels(size, options) or size[0] * size[1])
    return frame + _RESIZED_FRAME_BYTES * media.resized_pixels(size, num_frames)


def _decoded_bytes(header: ImageHeader) -> int:
    return header.decoded_bytes + _FORMAT_BYTES.get(header.format, 0)


def _padded_pixels(size: Size, options: MediaOptions) -> int:
    """Pixels of the square around an image; 0 where there is none."""
    return max(size) ** 2 if options.image_fit == "pad" else 0
