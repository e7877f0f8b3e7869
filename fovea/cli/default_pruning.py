"""The line of `fovea up` about what questions keep that name no pruner."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from fovea.pruner_spec import NO_PRUNING

__all__ = ["default_pruning"]


def default_pruning(http: httpx.Client, variables: Mapping[str, str]) -> str | None:
    """Pruner and budget of questions that name none, in a sentence.

    Args:
        http: client of a gateway that is ready.
        variables: environment of the services.

    Returns:
        None if nothing is pruned and no budget was set, or if the gateway does not tell: one with API keys tells its
        clients alone.
    """
    try:
        response = http.get("/v1/models")
        response.raise_for_status()
        served = response.json()["data"][0]
        pruner, keep_ratio = str(served["pruner"]), float(served["keep_ratio"])
    except (httpx.HTTPError, ValueError, TypeError, LookupError):
        return None
    # The gateway's own default goes before that of the encoder service.
    decides = "GATEWAY_PRUNER" if variables.get("GATEWAY_PRUNER") else "ENCODER_PRUNER"
    if pruner == NO_PRUNING:
        return _unused_budget(variables, decides)
    if keep_ratio >= 1:
        return None
    return (
        f"a question that names no pruner keeps {100 * keep_ratio:.3g} % of an image's tokens, by {pruner};"
        f" {decides}={NO_PRUNING} keeps all"
    )


def _unused_budget(variables: Mapping[str, str], decides: str) -> str | None:
    """Sentence about a budget that is set beside the pruner none, which keeps all tokens; None if none is set."""
    for name in ("GATEWAY_KEEP_RATIO", "ENCODER_KEEP_RATIO"):
        value = variables.get(name)
        if value and float(value) < 1:
            return (
                f"a question that names no pruner keeps all of an image's tokens: {name}={value} has no effect on the"
                f" pruner {NO_PRUNING}; {decides}=NAME sets another"
            )
    return None
