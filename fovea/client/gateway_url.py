"""Base URL of the gateway from an address as users write it."""

from __future__ import annotations

import re

import httpx

__all__ = ["gateway_url"]


def gateway_url(text: str) -> str:
    """Base URL of a gateway, without a slash at its end.

    Args:
        text: `http://HOST:PORT`, with or without scheme, path prefix and slashes at the end. The base URL of an OpenAI
            client is accepted too, which ends with `/v1`.

    Raises:
        ValueError: `text` is not such a URL; the message names what is accepted.
    """
    written = text.strip()
    try:
        url = httpx.URL(written if "://" in written else f"http://{written}")
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    # httpx would read "http:/host" as the host "http".
    has_one_slash = re.match(r"https?:(?!//)", written, re.IGNORECASE)
    port_exists = url.port is None or 0 < url.port <= 65535
    if (
        url.scheme not in ("http", "https")
        or not url.host
        or url.query
        or url.fragment
        or has_one_slash
        or not port_exists
    ):
        raise ValueError(
            f"{text!r:.200} is not accepted as the URL of a gateway; accepted: http://HOST:PORT or https://HOST:PORT,"
            " with a path prefix where the gateway has one"
        )
    return str(url).rstrip("/").removesuffix("/v1").rstrip("/")
