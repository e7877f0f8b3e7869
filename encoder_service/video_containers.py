"""Opening a video file with FFmpeg, which was not written for files from strangers: nothing is left for it to guess."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import av
from av.error import FFmpegError
from av.stream import Disposition

from fovea.errors import ServiceError, TooLarge, UnsupportedMedia
from fovea.media import images
from fovea.media.file_formats import detect_format

__all__ = ["FORMATS", "broken", "opened"]

FORMATS: Final = ("MP4", "WebM", "MKV", "AVI", "MOV", "GIF")

# The demuxer is told by the first bytes: some that FFmpeg knows read lists of other files and addresses to open.
_MATROSKA_START: Final = b"\x1aE\xdf\xa3"
_MOV_ATOMS: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
# What those containers carry in practice; every other decoder stays shut.
_CODECS: Final = (
    "h264,hevc,vp8,vp9,av1,libdav1d,mpeg4,msmpeg4v2,msmpeg4v3,mpeg1video,mpeg2video,h263,mjpeg,gif,prores,png,rawvideo"
)
# Tables of MP4 and MOV that may name any number of samples in a few bytes, and where after the tag they do. FFmpeg
# makes an index of 24 bytes a sample of them as it opens the file.
_SAMPLE_TABLES: Final = ((b"stsz", 12), (b"stz2", 12), (b"trun", 8))
_STILLS: Final = Disposition.attached_pic | Disposition.timed_thumbnails
_MAX_SAMPLES: Final = 4_000_000


@contextmanager
def opened(data: bytes, *, max_pixels: int) -> Iterator[tuple[Any, Any]]:
    """A container and its video stream. What is raised on hostile bytes while it is open becomes `UnsupportedMedia`.

    Args:
        data: A file.
        max_pixels: Most pixels of a frame; by the header here, by the decoder at about twice as many.

    Raises:
        UnsupportedMedia: Another format or codec, no video in it, or broken.
        TooLarge: Larger frames than that, or millions of them.
        InvalidRequest: Frames more than 100 times as long as wide, or the reverse.
    """
    demuxer = _demuxer(data)
    if demuxer == "mov":
        _check_sample_tables(data)
    # Also of frames that are larger than the header says. FFmpeg counts rows that it pads, hence the slack.
    decoder_options = {"max_pixels": str(2 * max_pixels + 2**20)}
    options = decoder_options | {"codec_whitelist": _CODECS, "protocol_whitelist": "none"}
    try:
        file = io.BytesIO(_without_background(data) if demuxer == "gif" else data)
        with av.open(file, format=demuxer, options=options, metadata_errors="replace") as container:
            stream = _moving(container)
            context = stream.codec_context
            if context is None or context.name not in _CODECS.split(","):
                raise UnsupportedMedia(f"the video's codec is not accepted; accepted: {_CODECS}", param="video")
            images.check_size(context.width, context.height, max_pixels, what="video", param="video")
            context.options = decoder_options
            context.thread_count = 1
            yield container, stream
    except ServiceError:
        raise
    except (FFmpegError, ValueError, OSError, EOFError) as error:
        raise broken() from error


def _moving(container: Any) -> Any:
    """The video stream that a player shows: no cover, no preview, and rather one that is switched on."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _STILLS]
    if not streams:
        cover = " but a cover image" if container.streams.video else ""
        raise UnsupportedMedia(f"the file has no video in it{cover}; accepted: {', '.join(FORMATS)}", param="video")
    return next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])


def broken() -> UnsupportedMedia:
    """What to raise where a file turns out to be broken."""
    return UnsupportedMedia(
        f"the video is broken, incomplete or of no accepted kind; accepted: whole files of {', '.join(FORMATS)}",
        param="video",
    )


def _demuxer(data: bytes) -> str:
    if data.startswith(_MATROSKA_START):
        return "matroska"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "avi"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    what = detect_format(data)
    # An image in the container of videos may lie there in tiles, and turned by what is no display matrix.
    if data[4:8] in _MOV_ATOMS and not (what and what.endswith("image")):
        return "mov"
    problem = f"the file is {what}" if what else "these bytes are no video that can be read"
    raise UnsupportedMedia(
        f"{problem if data else 'the video is empty'}; accepted: {', '.join(FORMATS)}", param="video"
    )


def _without_background(gif: bytes) -> bytes:
    """A GIF whose background is an unused colour, which FFmpeg takes for transparent; browsers show no background.

    One whose palette is full keeps its own.
    """
    palette_bits = (gif[10] & 7) + 1 if len(gif) > 11 else 8
    return gif if palette_bits == 8 else gif[:11] + b"\xff" + gif[12:]


def _check_sample_tables(data: bytes) -> None:
    samples = 0
    for header in _headers(data):
        if b"cmov" in header:
            raise UnsupportedMedia("the file's header is compressed; plain ones are accepted", param="video")
        for tag, offset in _SAMPLE_TABLES:
            at = header.find(tag)
            while at >= 0:
                samples += int.from_bytes(header[at + offset : at + offset + 4], "big")
                at = header.find(tag, at + 4)
    if samples > _MAX_SAMPLES:
        raise TooLarge(
            f"the file says that it has {samples:,} samples of picture and sound;"
            f" at most {_MAX_SAMPLES:,} are accepted",
            param="video",
        )


def _headers(data: bytes) -> Iterator[bytes]:
    """The boxes of the file that hold no pictures, in which a tag could stand by chance; all of what is no box."""
    start = 0
    while start + 8 <= len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        if size == 1:
            size = int.from_bytes(data[start + 8 : start + 16], "big")
        elif size == 0:
            size = len(data) - start
        if size < 8:
            break
        if data[start + 4 : start + 8] != b"mdat":
            yield data[start : start + size]
        start += size
    yield data[start:]
