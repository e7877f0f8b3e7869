"""What callers hear when an engine cannot answer them: the same words from every engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch

from fovea.errors import InternalError, InvalidRequest, Overloaded, ServiceError, Unavailable
from llm_service.engines.row import Row

__all__ = ["RETRY_AFTER_S", "beyond_numbers", "defect", "fail", "unavailable", "why"]

RETRY_AFTER_S: Final = 1.0


def unavailable(what: str) -> Unavailable:
    """The service `what` ("is shutting down")."""
    return Unavailable(f"the LLM service {what}", retry_after_s=RETRY_AFTER_S)


def beyond_numbers() -> InvalidRequest:
    """Visual tokens for which the model's dtype has no room."""
    return InvalidRequest(
        "the visual tokens drive the model beyond the numbers it can represent; send features as the vision tower"
        " of this checkpoint makes them",
        param="visual_tokens",
    )


def defect() -> InternalError:
    """Something that should not happen."""
    return InternalError("the model failed on this request; the log of the LLM service tells why")


def why(error: Exception) -> ServiceError:
    """What a row hears of an exception that it met."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return Overloaded(
            "the LLM service has no memory left for this request; try again shortly, or with fewer tokens",
            retry_after_s=RETRY_AFTER_S,
        )
    return defect()


def fail(rows: Iterable[Row], error: ServiceError) -> None:
    """Ends those that have not ended."""
    for row in rows:
        if not row.ended:
            row.fail(error)
