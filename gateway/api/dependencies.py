"""What the application made at its start, for endpoints."""

from __future__ import annotations

from typing import cast

from fastapi import Request

from gateway.api.admission import Admission
from gateway.pipeline import Pipeline

__all__ = ["get_admission", "get_pipeline"]


def get_pipeline(request: Request) -> Pipeline:
    """The one pipeline of this process."""
    return cast(Pipeline, request.app.state.pipeline)


def get_admission(request: Request) -> Admission:
    """The permits of this process."""
    return cast(Admission, request.app.state.admission)
