"""Errors of limits of a client."""

from __future__ import annotations

from fovea.errors import Overloaded

__all__ = ["RateLimited"]


class RateLimited(Overloaded):
    """The client is at a limit of its own. Another replica of the server would refuse it as well."""

    code = "rate_limited"
