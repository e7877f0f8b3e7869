"""The line of `fovea up` about what questions keep that name no pruner."""

from __future__ import annotations

import httpx

__all__ = ["default_pruning"]


def default_pruning(url: str) -> str | None:
    """Pruner and budget of questions that name none, in a sentence.

    Args:
        url: address of a gateway that is ready.

    Returns:
        None if nothing is pruned, or if the gateway does not tell: one with API keys tells its clients alone.
    """
    try:
        response = httpx.get(f"{url}/v1/models", timeout=5, trust_env=False)
        response.raise_for_status()
        served = response.json()["data"][0]
        pruner, keep_ratio = str(served["pruner"]), float(served["keep_ratio"])
    except (httpx.HTTPError, ValueError, TypeError, LookupError):
        return None
    if pruner == "none" or keep_ratio >= 1:
        return None
    return (
        f"a question that names no pruner keeps {100 * keep_ratio:.3g} % of an image's tokens, by {pruner};"
        " ENCODER_PRUNER=none keeps all"
    )
