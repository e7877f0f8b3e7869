"""Headers of a request."""

from __future__ import annotations

from starlette.types import Scope

__all__ = ["header"]


def header(scope: Scope, name: bytes) -> str | None:
    """The first value of a header; None if the request does not have it.

    Args:
        scope: ASGI scope.
        name: Name in lower case.
    """
    for given, value in scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return None
