"""Gateway and key of a client that names none, from the environment."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["DEFAULT_URL", "api_key_or_variable", "url_or_variable"]

DEFAULT_URL: Final = "http://127.0.0.1:8000"


def url_or_variable(url: str | None) -> str:
    """`url`, else the variable FOVEA_URL, else `DEFAULT_URL`."""
    return url if url is not None else os.environ.get("FOVEA_URL") or DEFAULT_URL


def api_key_or_variable(api_key: str | None) -> str | None:
    """`api_key`, else the variable FOVEA_API_KEY; None for no key."""
    return (api_key if api_key is not None else os.environ.get("FOVEA_API_KEY")) or None
