"""Responses of `/healthz` and `/readyz`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from gateway.schemas.error import ErrorDetail

__all__ = ["Health", "Readiness"]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether an answer can be given now, and if not, what is missing."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: Literal["ready", "not_ready"]

    checks: dict[str, str]
    """`encoder`, `llm`, `fingerprints`: "ok" or what is wrong."""

    error: ErrorDetail | None = None
    """Only where the status is not_ready."""
