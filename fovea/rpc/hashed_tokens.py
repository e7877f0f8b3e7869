"""Bearer tokens of which a server keeps only SHA-256 digests: new tokens, digests, and the look-up in constant time.

Tokens are 256 random bits, for which a plain hash is enough: nobody finds one by trying, so a slow hash would only cost
time in every request. A file of digests grants no access by itself.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Final, TypeVar

__all__ = ["SCHEME", "digest_of", "holder_of", "new_token"]

SCHEME: Final = "Bearer "
"""Start of the value of an authorization header or metadata entry."""

T = TypeVar("T")


def new_token() -> str:
    """A new token of 256 random bits, in the URL-safe alphabet."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """SHA-256 of a token in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def holder_of(authorization: str, digests: Iterable[tuple[str, T]]) -> T | None:
    """Holder of the token in `authorization`; None if no holder has it.

    The time depends on the number of digests alone: it is the same for right, wrong and missing tokens.

    Args:
        authorization: value of the header or metadata entry, with its scheme.
        digests: digest and holder of each accepted token.
    """
    scheme, token = authorization[: len(SCHEME)], authorization[len(SCHEME) :]
    digest = digest_of(token)
    found = None
    for expected, holder in digests:
        if hmac.compare_digest(digest, expected):
            found = holder
    return found if scheme.lower() == SCHEME.lower() else None
