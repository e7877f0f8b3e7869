"""Image and video files: uploads and data URLs, checked for size and format and hashed.

Only the header of a file is read here; the encoder service decodes it. `gateway.media.fetch` fetches files by URL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import sys
from dataclasses import dataclass
from typing import Final

from fovea.errors import MalformedRequest, TooLarge, UnsupportedMedia
from fovea.media.file_formats import detect_format
from fovea.media.image_headers import read_header

__all__ = ["IMAGE", "VIDEO", "MediaFile", "MediaKind", "Video", "decode_data_url", "media_file"]

_BASE64_END: Final = re.compile(r"; *base64$", re.IGNORECASE)
_KINDS: Final = ("audio/", "font/", "image/", "text/", "video/")
"""Prefixes of media types that say what a file is. Stores and libraries give others, such as `binary/octet-stream` and
`application/x-png`, to files of any kind; there the first bytes of the file tell the format."""
_SHOWN_TYPE_CHARS: Final = 60
_UNSHOWN: Final = re.compile(r"[^ -~]")
"""Characters that a message leaves out: all but printable ASCII."""
_WHITE_SPACE: Final = b" \t\r\n\f"
_ESCAPES: Final = {
    escape.encode(): bytes([code]) for code in b"+/= \t\r\n" for escape in (f"%{code:02X}", f"%{code:02x}")
}
"""Percent-encoded characters that are decoded in base64. Decoding all escapes would make an object for each of them."""
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True)
class MediaKind:
    """Accepted formats of images or of videos.

    Attributes:
        noun: Name for messages, `image` or `video`.
        article: Indefinite article of `noun`.
        formats: Names of the accepted formats, for messages.
        media_types: Prefixes of accepted media types; messages show the first one as the form of a data URL.
        magic: First bytes of accepted files.
    """

    noun: str
    article: str
    formats: str
    media_types: tuple[str, ...]
    magic: re.Pattern[bytes]


IMAGE: Final = MediaKind(
    noun="image",
    article="an",
    formats="JPEG, PNG, WebP, GIF and BMP",
    media_types=("image/",),
    magic=re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM", re.DOTALL),
)
VIDEO: Final = MediaKind(
    noun="video",
    article="a",
    formats="MP4, WebM, MKV, AVI, MOV and GIF",
    media_types=("video/", "image/gif"),
    # First box of MP4 and MOV, EBML header of WebM and MKV.
    magic=re.compile(rb"....(?:ftyp|moov|mdat|wide|free|skip|pnot)|\x1aE\xdf\xa3|RIFF....AVI |GIF8[79]a", re.DOTALL),
)


@dataclass(frozen=True)
class MediaFile:
    """An encoded image or video file.

    Attributes:
        data: Bytes of the file.
        sha256: Hex digest of `data`.
        num_pixels: Pixels of an image by its header; 0 for a video.
    """

    data: bytes
    sha256: str
    num_pixels: int = 0

    @classmethod
    def of(cls, data: bytes, num_pixels: int = 0) -> MediaFile:
        """The file with these bytes, unchecked."""
        return cls(data, hashlib.sha256(data).hexdigest(), num_pixels)


@dataclass(frozen=True)
class Video:
    """A video: a file, or sampled frames.

    Attributes:
        file: The video file; None for frames.
        frames: Image files in temporal order; empty for a video file.
    """

    file: MediaFile | None = None
    frames: tuple[MediaFile, ...] = ()


def media_file(
    data: bytes, kind: MediaKind, *, field_path: str, max_bytes: int, max_pixels: int = sys.maxsize
) -> MediaFile:
    """A checked and hashed file.

    Args:
        data: Bytes of the file.
        kind: Accepted formats.
        field_path: Path of the file in the request, for errors.
        max_bytes: Largest accepted size in bytes.
        max_pixels: Largest accepted size of an image in pixels.

    Raises:
        TooLarge: The file has more than `max_bytes` or `max_pixels`, or so much metadata that its header is not found.
        UnsupportedMedia: The first bytes are of no accepted format, or an image has no header that can be read. The
            error names the detected format, if any.
    """
    if len(data) > max_bytes:
        raise TooLarge(
            f"{field_path} has {len(data):,} bytes; {kind.noun}s up to {max_bytes:,} bytes are accepted",
            param=field_path,
        )
    if not kind.magic.match(data):
        actual = detect_format(data) or "not a file of an accepted format"
        raise UnsupportedMedia(f"{field_path} is {actual}; {kind.formats} are accepted", param=field_path)
    return MediaFile.of(data, _checked_pixels(data, field_path, max_pixels) if kind is IMAGE else 0)


def _checked_pixels(data: bytes, field_path: str, max_pixels: int) -> int:
    """Number of pixels of an image, at most `max_pixels`."""
    try:
        header = read_header(data)
    except TooLarge as error:
        raise error.renamed(field_path) from error
    if header is None:
        raise UnsupportedMedia(
            f"{field_path} is {detect_format(data) or 'an image'} that is broken or of a kind that cannot be read;"
            f" {IMAGE.formats} are accepted",
            param=field_path,
        )
    if header.num_pixels > max_pixels:
        raise TooLarge(
            f"{field_path} has {header.width:,} x {header.height:,} pixels; at most {max_pixels:,} in all are accepted",
            param=field_path,
        )
    return header.num_pixels


def decode_data_url(
    url: str, kind: MediaKind, *, field_path: str, max_bytes: int, max_pixels: int = sys.maxsize
) -> MediaFile:
    """The file in `data:image/...;base64,...`, read as browsers read it. The URL-safe alphabet is accepted too.

    White space is skipped, padding may be missing, characters other than letters and digits may be percent-encoded, and
    the media type may have any parameters. A media type that names no kind of file is not read.

    Args:
        url: The data URL.
        kind: Accepted formats.
        field_path: Path of the URL in the request, for errors.
        max_bytes: Largest accepted size of the file in bytes, checked before decoding.
        max_pixels: Largest accepted size of an image in pixels.

    Raises:
        MalformedRequest: The URL is not a base64 data URL.
        TooLarge: See `media_file`.
        UnsupportedMedia: The media type is that of another kind of file, or the content is of no accepted format, see
            `media_file`.
    """
    comma = url.find(",")
    head = url[len("data:") : max(comma, 0)].strip()
    if comma < 0 or not _BASE64_END.search(head):
        raise MalformedRequest(
            f"{field_path} is not of the form data:{kind.media_types[0]}...;base64,...", param=field_path
        )
    media_type = head.partition(";")[0].strip().lower()
    if media_type.startswith(_KINDS) and not media_type.startswith(kind.media_types):
        shown = _UNSHOWN.sub("", media_type[:_SHOWN_TYPE_CHARS])
        raise UnsupportedMedia(
            f"{field_path} is a data URL of the media type {shown}, not of {kind.article} {kind.noun};"
            f" {kind.formats} are accepted",
            param=field_path,
        )
    try:
        encoded = _plain_base64(url[comma + 1 :])
        if len(encoded) * 3 // 4 > max_bytes:
            raise TooLarge(
                f"{field_path} has more than the {max_bytes:,} bytes accepted for {kind.article} {kind.noun}",
                param=field_path,
            )
        data = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest(f"{field_path} is not valid base64 after the comma", param=field_path) from error
    return media_file(data, kind, field_path=field_path, max_bytes=max_bytes, max_pixels=max_pixels)


def _plain_base64(text: str) -> bytes:
    """`text` in the standard alphabet, without white space and padding."""
    encoded = text.encode("ascii")
    if b"%" in encoded:
        for escape, character in _ESCAPES.items():
            encoded = encoded.replace(escape, character)
    return encoded.translate(_URL_SAFE, _WHITE_SPACE).rstrip(b"=")
