"""Errors that engines report to callers, the same for every engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch

from fovea.errors import InternalError, InvalidRequest, Overloaded, ServiceError, Unavailable
from llm_service.engine.sequence import Sequence

__all__ = ["RETRY_AFTER_S", "fail", "internal_error", "overflow_error", "to_service_error", "unavailable"]

RETRY_AFTER_S: Final = 1.0


def unavailable(reason: str) -> Unavailable:
    """Unavailable error; `reason` completes "the LLM service ..."."""
    return Unavailable(f"the LLM service {reason}", retry_after_s=RETRY_AFTER_S)


def overflow_error() -> InvalidRequest:
    """Error for visual tokens that overflow the model's dtype."""
    return InvalidRequest(
        "the visual tokens drive the model beyond the numbers it can represent; send features as the vision tower"
        " of this checkpoint computes them",
        param="visual_tokens",
    )


def internal_error() -> InternalError:
    """Error for a defect of the service."""
    return InternalError("the model failed on this request; the log of the LLM service has the reason")


def to_service_error(error: Exception) -> ServiceError:
    """The service error that a caller receives for an exception of the model."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return Overloaded(
            "the LLM service has no memory left for this request; try again shortly, or with fewer tokens",
            retry_after_s=RETRY_AFTER_S,
        )
    return internal_error()


def fail(sequences: Iterable[Sequence], error: ServiceError) -> None:
    """Ends the unfinished ones of some sequences with an error."""
    for sequence in sequences:
        if not sequence.finished:
            sequence.fail(error)
