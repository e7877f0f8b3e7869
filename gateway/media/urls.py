"""https URLs of media: parsing and checks.

The parser is that of the HTTP client which sends the request: two parsers may find two hosts in one text.
"""

from __future__ import annotations

import re
from typing import Final

import httpx

from fovea.errors import InvalidRequest

__all__ = ["MAX_URL_CHARS", "ascii_host", "parse_media_url"]

MAX_URL_CHARS: Final = 8192
_HOST: Final = re.compile(r"[a-z0-9._:-]+")


def ascii_host(host: str) -> str:
    """A host name in lower case and ASCII: `bücher.example` is `xn--bcher-kva.example`.

    Raises:
        ValueError: `host` is not a host name.
    """
    try:
        url = _parsed(f"https://{host}/")
    except ValueError as error:
        raise ValueError(f"{host!r} is not a host name") from error
    if url.userinfo or url.port is not None or url.path != "/" or url.query or url.fragment:
        raise ValueError(f"{host!r} is not a host name; a name without user, port and path is accepted")
    return url.raw_host.decode("ascii")


def parse_media_url(text: str, *, field_path: str) -> httpx.URL:
    """The URL in `text`.

    Args:
        text: URL as the client sent it.
        field_path: path of the URL in the request, for messages.

    Raises:
        InvalidRequest: `text` is not an https URL, is too long, or names a port, user or password.
    """
    if len(text) > MAX_URL_CHARS:
        raise InvalidRequest(
            f"{field_path} is a URL of {len(text):,} characters; up to {MAX_URL_CHARS:,} are accepted", param=field_path
        )
    try:
        url = _parsed(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{field_path} is not a valid URL; https://HOST/PATH without control characters is accepted",
            param=field_path,
        ) from error
    if url.scheme != "https":
        raise InvalidRequest(
            f"{field_path} is an {url.scheme} URL, which is not fetched. Accepted: https://HOST/PATH, a data URL, or a"
            " file in a form of /v1/answer or /v1/explain",
            param=field_path,
        )
    # The parser drops the default port of the scheme.
    if url.port is not None or url.userinfo:
        raise InvalidRequest(
            f"{field_path}: a URL must be https on its standard port, without user and password", param=field_path
        )
    return url


def _parsed(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError("not a URL") from error
    if not _HOST.fullmatch(url.raw_host.decode("ascii")):
        raise ValueError("no host")
    return url
