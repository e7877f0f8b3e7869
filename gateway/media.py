"""Pictures and videos as they arrive: uploads and data URLs to bytes with a hash, within limits.

Only the first bytes are looked at here; the encoder service decodes. Fetching by URL is `gateway.fetch`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from fovea.errors import MalformedRequest, TooLarge, UnsupportedMedia
from fovea.media.file_formats import detected

__all__ = ["IMAGE", "VIDEO", "MediaFile", "MediaKind", "Video", "decode_data_url", "media_file", "top_level_field"]

_BASE64_END: Final = re.compile(r"; *base64$", re.IGNORECASE)
_ANY_TYPE: Final = ("", "application/octet-stream")
"""Media types that say nothing: the file itself tells."""
_WHITE_SPACE: Final = b" \t\r\n\f"
_ESCAPES: Final = {
    escape.encode(): bytes([code]) for code in b"+/= \t\r\n" for escape in (f"%{code:02X}", f"%{code:02x}")
}
"""What is percent-encoded in base64. No others: decoding any escape anywhere makes an object for each of millions."""
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True)
class MediaKind:
    """What a file may be.

    Attributes:
        noun: What people call it.
        formats: Those accepted, for messages.
        media_types: Beginnings of media types; the first is what data URLs are said to look like.
        magic: How such files begin.
    """

    noun: str
    formats: str
    media_types: tuple[str, ...]
    magic: re.Pattern[bytes]


IMAGE: Final = MediaKind(
    noun="picture",
    formats="JPEG, PNG, WebP, GIF and BMP",
    media_types=("image/",),
    magic=re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM", re.DOTALL),
)
VIDEO: Final = MediaKind(
    noun="video",
    formats="MP4, WebM, MKV, AVI, MOV and GIF",
    media_types=("video/", "image/gif"),
    # The first atom of MP4 and MOV; EBML of WebM and MKV.
    magic=re.compile(rb"....(?:ftyp|moov|mdat|wide|free|skip|pnot)|\x1aE\xdf\xa3|RIFF....AVI |GIF8[79]a", re.DOTALL),
)


@dataclass(frozen=True)
class MediaFile:
    """An encoded picture or video file.

    Attributes:
        data: The file.
        sha256: Hex digest of `data`.
    """

    data: bytes
    sha256: str


@dataclass(frozen=True)
class Video:
    """A video: a file, or frames that were sampled already.

    Attributes:
        file: The file; None where there are frames.
        frames: Pictures in the order of time; none where there is a file.
    """

    file: MediaFile | None = None
    frames: tuple[MediaFile, ...] = ()


def top_level_field(field_path: str) -> str:
    """The request field in a name such as `images.2`, which says where in a request a file stands."""
    return field_path.partition(".")[0]


def media_file(data: bytes, kind: MediaKind, *, field_path: str, max_bytes: int) -> MediaFile:
    """Checks and hashes a file.

    Args:
        data: The file.
        kind: What it has to be.
        field_path: Where it stands in the request, for messages.
        max_bytes: Most bytes.

    Raises:
        TooLarge: More than `max_bytes`.
        UnsupportedMedia: It does not begin like a file of an accepted format. The error names the format that it has,
            where that can be told.
    """
    param = top_level_field(field_path)
    if len(data) > max_bytes:
        raise TooLarge(
            f"{field_path} has {len(data):,} bytes; {kind.noun}s up to {max_bytes:,} bytes are accepted", param=param
        )
    if not kind.magic.match(data):
        what = detected(data) or f"not a {kind.noun}"
        raise UnsupportedMedia(f"{field_path} is {what}; {kind.formats} are accepted", param=param)
    return MediaFile(data, hashlib.sha256(data).hexdigest())


def decode_data_url(url: str, kind: MediaKind, *, field_path: str, max_bytes: int) -> MediaFile:
    """The file in `data:image/...;base64,...`, read as browsers do and in the URL-safe alphabet too.

    White space in it is skipped, padding may be missing, other characters than letters and digits may be
    percent-encoded, and the media type may have any parameters.

    Args:
        url: The data URL.
        kind: What it has to be.
        field_path: Where it stands in the request, for messages.
        max_bytes: Most bytes of the file.

    Raises:
        MalformedRequest: Not a base64 data URL.
        TooLarge: More than `max_bytes`; found before anything is decoded.
        UnsupportedMedia: The media type or the content is of another kind.
    """
    param = top_level_field(field_path)
    comma = url.find(",")
    head = url[len("data:") : max(comma, 0)].strip()
    if comma < 0 or not _BASE64_END.search(head):
        raise MalformedRequest(f"{field_path} is not of the form data:{kind.media_types[0]}...;base64,...", param=param)
    media_type = head.partition(";")[0].strip().lower()
    if media_type not in _ANY_TYPE and not media_type.startswith(kind.media_types):
        raise UnsupportedMedia(
            f"{field_path} is a data URL of another media type; {kind.formats} are accepted", param=param
        )
    try:
        encoded = _plain_base64(url[comma + 1 :])
        if len(encoded) * 3 // 4 > max_bytes:
            raise TooLarge(
                f"{field_path} has more than the {max_bytes:,} bytes accepted for a {kind.noun}", param=param
            )
        data = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest(f"{field_path} is not valid base64 after the comma", param=param) from error
    return media_file(data, kind, field_path=field_path, max_bytes=max_bytes)


def _plain_base64(text: str) -> bytes:
    """`text` in the standard alphabet, without white space and padding."""
    encoded = text.encode("ascii")
    if b"%" in encoded:
        for escape, character in _ESCAPES.items():
            encoded = encoded.replace(escape, character)
    return encoded.translate(_URL_SAFE, _WHITE_SPACE).rstrip(b"=")
