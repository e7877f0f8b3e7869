"""Paths of the API: they need a key, their requests are in the audit log, and only allowed web pages may use them."""

from __future__ import annotations

from starlette.types import Scope

__all__ = ["is_api_path"]


def is_api_path(scope: Scope) -> bool:
    """Whether the path is /v1 or under it. The others reveal nothing: probes, the web page, and the description
    of the API.

    Args:
        scope: ASGI scope. Its path is the one that is routed, percent-encoded characters decoded.
    """
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path == "/v1" or path.startswith("/v1/")
