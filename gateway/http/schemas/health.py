"""Responses of `/healthz` and `/readyz`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from gateway.http.schemas.error import ErrorDetail

__all__ = ["Health", "Readiness"]


class Health(BaseModel):
    """Liveness of the process."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Readiness of the gateway and both services."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: Literal["ready", "not_ready"]
    """Whether requests can be answered now."""

    checks: dict[str, str]
    """Outcome of the checks `encoder`, `llm` and `fingerprints`, of `pruner` and `wire_dtype` where the gateway sets
    these defaults, and of `redis` where the gateway uses one, which may fail while the gateway is ready: "ok" or what
    is wrong."""

    error: ErrorDetail | None = None
    """Error; only if the status is not_ready."""
