"""API keys as clients send them."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["authorization", "is_api_key"]

_KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}")


def is_api_key(text: str) -> bool:
    """Whether `text` can be sent in a header: printable ASCII characters without spaces."""
    return _KEY.fullmatch(text) is not None


def authorization(api_key: str | None) -> dict[str, str]:
    """Headers with a key; none without one."""
    return {"authorization": f"Bearer {api_key}"} if api_key else {}
