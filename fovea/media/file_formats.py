"""Names of file formats by their first bytes, so that an error can name the format that was sent."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["detect_format"]

_HEAD_BYTES: Final = 1024
# The first match counts, so narrow patterns come before wide ones.
_FORMATS: Final = tuple(
    (name, re.compile(pattern, re.DOTALL | re.IGNORECASE if b"<" in pattern else re.DOTALL))
    for name, pattern in (
        ("a JPEG image", rb"\xff\xd8\xff"),
        ("a PNG image", rb"\x89PNG\r\n\x1a\n"),
        ("a WebP image", rb"RIFF....WEBP"),
        ("a GIF image", rb"GIF8[79]a"),
        ("an AVIF image", rb"....ftyp(?:avi[fs]|m(?:if1|sf1|iaf)....(?:....){0,8}?avi[fs])"),
        ("a HEIC image", rb"....ftyp(?:he(?:i[cmsx]|v[cmsx])|m(?:if1|sf1|iaf))"),
        ("a JPEG XL image", rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
        ("a JPEG 2000 image", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        ("a TIFF image", rb"II[*+]\x00|MM\x00[*+]"),
        ("an icon", rb"\x00\x00[\x01\x02]\x00[^\x00]\x00"),
        ("a Photoshop document", rb"8BPS"),
        ("an SVG drawing", rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml|<!--|<!DOCTYPE svg)?.{0,900}?<svg[\s/>]"),
        ("an HTML page", rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)[\s>]"),
        ("a PDF document", rb"%PDF-"),
        ("an AVI video", rb"RIFF....AVI "),
        ("a WAV sound", rb"RIFF....WAVE"),
        ("a MOV video", rb"....(?:ftypqt  |moov|mdat|wide|pnot)"),
        ("an MP4 video", rb"....ftyp"),
        ("a WebM or MKV video", rb"\x1aE\xdf\xa3"),
        ("an FLV video", rb"FLV\x01"),
        ("a WMV video", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        ("an MPEG video", rb"\x00\x00\x01[\xb3\xba]|\x47.{187}\x47"),
        ("an Ogg file", rb"OggS"),
        ("an MP3 sound", rb"ID3|\xff[\xfb\xf3\xf2]"),
        ("a ZIP archive", rb"PK\x03\x04"),
        ("a gzip archive", rb"\x1f\x8b"),
        ("a BMP image", rb"BM.{4}\x00{4}"),
    )
)


def detect_format(data: bytes) -> str | None:
    """Name of a file's format with its article, as "an AVIF image"; None for an unknown format."""
    head = data[:_HEAD_BYTES]
    return next((name for name, pattern in _FORMATS if pattern.match(head)), None)
