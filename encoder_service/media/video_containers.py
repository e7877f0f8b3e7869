"""Opening of video files with FFmpeg, restricted to known containers and codecs, since files may be hostile.

PyAV is an extra, so it is imported where a video file is opened.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from fovea.errors import ServiceError, TooLarge, UnsupportedMedia
from fovea.media import images
from fovea.media.file_formats import detect_format
from fovea.processes.extras import install_command

__all__ = ["FORMATS", "REASON_WITHOUT_PYAV", "broken_video", "has_pyav", "open_video"]

REASON_WITHOUT_PYAV: Final = f"the package av is missing: {install_command('video')} and restart the encoder service"
"""Why a service without the extra `video` refuses video files."""

FORMATS: Final = ("MP4", "WebM", "MKV", "AVI", "MOV", "GIF")

# The first bytes select the demuxer: some of FFmpeg's demuxers open other files and addresses that a file lists.
_MATROSKA_START: Final = b"\x1aE\xdf\xa3"
_MOV_ATOMS: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
# Codecs that those containers have in practice; no other decoder is used.
_CODECS: Final = (
    "h264,hevc,vp8,vp9,av1,libdav1d,mpeg4,msmpeg4v2,msmpeg4v3,mpeg1video,mpeg2video,h263,mjpeg,gif,prores,png,rawvideo"
)
# Tables of MP4 and MOV that may declare any number of samples in a few bytes, and the offset of that number after the
# tag. FFmpeg builds an index of 24 bytes a sample from them when it opens the file.
_SAMPLE_TABLES: Final = ((b"stsz", 12), (b"stz2", 12), (b"trun", 8))
_MAX_SAMPLES: Final = 4_000_000
# Edit list of MP4 and MOV. FFmpeg searches the index for each entry, 22 microseconds each; players write a few.
_EDIT_LIST: Final = (b"elst", 8)
_MAX_EDITS: Final = 10_000


@functools.cache
def has_pyav() -> bool:
    """Whether PyAV is installed, without which no video file can be opened."""
    return importlib.util.find_spec("av") is not None


@contextmanager
def open_video(data: bytes, *, max_pixels: int) -> Iterator[tuple[Any, Any]]:
    """A container and its video stream. Errors of FFmpeg while it is open become `UnsupportedMedia`.

    Args:
        data: Bytes of the file.
        max_pixels: Largest number of pixels of a frame. The header is checked against it, frames by the decoder against
            about twice as many.

    Raises:
        UnsupportedMedia: The format or codec is another, there is no video in the file, or it is broken.
        TooLarge: Frames are larger than `max_pixels`, or there are millions of them.
        InvalidRequest: Frames are more than 100 times as long as wide, or the reverse.
    """
    import av
    from av.error import FFmpegError

    demuxer = _demuxer(data)
    if demuxer == "mov":
        _check_tables(data)
    # Checked by the decoder too, for frames larger than the header declares. FFmpeg counts padding, hence the slack.
    decoder_options = {"max_pixels": str(2 * max_pixels + 2**20)}
    options = decoder_options | {"codec_whitelist": _CODECS, "protocol_whitelist": "none"}
    try:
        file = io.BytesIO(_without_background(data) if demuxer == "gif" else data)
        with av.open(file, format=demuxer, options=options, metadata_errors="replace") as container:
            stream = _video_stream(container)
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
        raise broken_video() from error


def _video_stream(container: Any) -> Any:
    """The video stream that a player shows: no cover or preview image; a default stream first."""
    from av.stream import Disposition

    stills = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & stills]
    if not streams:
        cover = " but a cover image" if container.streams.video else ""
        raise UnsupportedMedia(f"the file has no video in it{cover}; accepted: {', '.join(FORMATS)}", param="video")
    return next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])


def broken_video() -> UnsupportedMedia:
    """Error for a file that turns out to be broken."""
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
    kind = detect_format(data)
    # AVIF and HEIC images are refused: they may be stored in tiles and have an orientation without a display matrix.
    if data[4:8] in _MOV_ATOMS and not (kind and kind.endswith("image")):
        return "mov"
    problem = f"the file is {kind}" if kind else "these bytes are no video that can be read"
    raise UnsupportedMedia(
        f"{problem if data else 'the video is empty'}; accepted: {', '.join(FORMATS)}", param="video"
    )


def _without_background(gif: bytes) -> bytes:
    """A GIF with an unused colour as background: FFmpeg takes that for transparent, and browsers show no background.

    A GIF whose palette is full keeps its background.
    """
    palette_bits = (gif[10] & 7) + 1 if len(gif) > 11 else 8
    return gif if palette_bits == 8 else gif[:11] + b"\xff" + gif[12:]


def _check_tables(data: bytes) -> None:
    """Checks what the tables of an MP4 or MOV file declare, before FFmpeg builds an index from them."""
    samples = edits = 0
    for header in _headers(data):
        if b"cmov" in header:
            raise UnsupportedMedia("the file's header is compressed; plain ones are accepted", param="video")
        samples += sum(_declared(header, tag, offset) for tag, offset in _SAMPLE_TABLES)
        edits += _declared(header, *_EDIT_LIST)
    for count, noun, limit in ((samples, "samples of video and sound", _MAX_SAMPLES), (edits, "edits", _MAX_EDITS)):
        if count > limit:
            raise TooLarge(f"the file declares {count:,} {noun}; at most {limit:,} are accepted", param="video")


def _declared(header: bytes, tag: bytes, offset: int) -> int:
    """Sum of the numbers of entries that all tables of a kind declare."""
    total, at = 0, header.find(tag)
    while at >= 0:
        total += int.from_bytes(header[at + offset : at + offset + 4], "big")
        at = header.find(tag, at + 4)
    return total


def _headers(data: bytes) -> Iterator[bytes]:
    """Boxes of the file without `mdat`, whose frames could contain a tag by chance; and all that is no box."""
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
