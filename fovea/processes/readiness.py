"""Checks of a gateway's `/readyz`, and those of them that waiting does not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx

__all__ = ["readiness_checks", "refused_default", "refused_token", "token_advice"]

_DEFAULTS: Final = ("pruner", "wire_dtype")
"""Checks of defaults that the gateway sets."""
_SERVICES: Final = ("encoder", "llm")


def readiness_checks(response: httpx.Response) -> Mapping[str, str]:
    """Checks of a response of `/readyz`; none of another server's."""
    try:
        checks = response.json()["checks"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: str(state) for name, state in checks.items()} if isinstance(checks, dict) else {}


def refused_default(checks: Mapping[str, str]) -> str | None:
    """The default of the gateway that the encoder service does not offer, and why; None if there is none.

    Args:
        checks: checks of `/readyz`, see `readiness_checks`.
    """
    refused = (f"{name} is {checks[name]}" for name in _DEFAULTS if checks.get(name, "ok") != "ok")
    return next(refused, None)


def refused_token(checks: Mapping[str, str]) -> str | None:
    """The service that does not accept the gateway's bearer token: `encoder` or `llm`; None if there is none.

    Args:
        checks: checks of `/readyz`, see `readiness_checks`.
    """
    return next((name for name in _SERVICES if "bearer token" in checks.get(name, "")), None)


def token_advice(service: str) -> str:
    """What to do about a service that `refused_token` names."""
    return (
        "give the gateway the token of a site in the service's --token-file, with"
        f" --{service}-token-file (GATEWAY_{service.upper()}_TOKEN_FILE)"
    )
