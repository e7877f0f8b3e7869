"""Pictures as they arrive: uploads and data URLs to bytes with a hash, within limits.

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

__all__ = ["Picture", "decode_data_url", "picture"]

_ACCEPTED: Final = "JPEG, PNG, WebP, GIF and BMP are accepted"
_DATA_URL: Final = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_MAGIC: Final = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM", re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """An encoded picture file.

    Attributes:
        data: The file.
        sha256: Hex digest of `data`.
    """

    data: bytes
    sha256: str


def picture(data: bytes, *, max_bytes: int) -> Picture:
    """Checks and hashes a picture file.

    Raises:
        TooLarge: More than `max_bytes`.
        UnsupportedMedia: It does not begin like a picture of an accepted format.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"image has {len(data):,} bytes; pictures up to {max_bytes:,} bytes are accepted", param="image")
    if not _MAGIC.match(data):
        raise UnsupportedMedia(f"image is not a picture; {_ACCEPTED}", param="image")
    return Picture(data, hashlib.sha256(data).hexdigest())


def decode_data_url(url: str, *, max_bytes: int) -> Picture:
    """The picture in `data:image/...;base64,...`.

    Raises:
        MalformedRequest: Not a base64 data URL.
        TooLarge: More than `max_bytes`; found before anything is decoded.
        UnsupportedMedia: The media type or the content is not that of a picture.
    """
    head = _DATA_URL.match(url[:256])
    if head is None or not head[2].lower().endswith(";base64"):
        raise MalformedRequest("image is not of the form data:image/...;base64,...", param="image")
    if not head[1].lower().startswith("image/"):
        raise UnsupportedMedia(f"image is a data URL of another media type; {_ACCEPTED}", param="image")
    try:
        encoded = url[head.end() :].encode("ascii").translate(None, b"\r\n")  # `base64` wraps its lines
        if len(encoded) * 3 // 4 - 2 > max_bytes:  # at least this many bytes
            raise TooLarge(f"image has more than the {max_bytes:,} bytes accepted for a picture", param="image")
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest("image is not valid base64 after the comma", param="image") from error
    return picture(data, max_bytes=max_bytes)
