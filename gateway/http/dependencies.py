"""Objects of the application, for endpoints."""

from __future__ import annotations

from typing import cast

from fastapi import Request

from gateway.core.pipeline import Pipeline
from gateway.http.admission import Admission
from gateway.http.drain import Drain

__all__ = ["get_admission", "get_body_admission", "get_drain", "get_pipeline"]


def get_pipeline(request: Request) -> Pipeline:
    """The pipeline of this process."""
    return cast(Pipeline, request.app.state.pipeline)


def get_admission(request: Request) -> Admission:
    """Admission of answers."""
    return cast(Admission, request.app.state.admission)


def get_body_admission(request: Request) -> Admission:
    """Admission of request bodies."""
    return cast(Admission, request.app.state.body_admission)


def get_drain(request: Request) -> Drain:
    """The drain, which ends requests when the server stops."""
    return cast(Drain, request.app.state.drain)
