"""Body of every error response."""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["ErrorBody", "ErrorDetail"]


class ErrorDetail(BaseModel):
    """Description of an error."""

    message: str = Field(description="Text for people: what is wrong and what is accepted.")
    type: str = Field(description="Class of the error: invalid_request_error, rate_limit_error or server_error.")
    param: str | None = Field(default=None, description="Field of the request that is wrong, if there is one.")
    code: str = Field(description="Code for programs: malformed_request, too_large, overloaded, ...")
    retry_after_s: int | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Seconds after which to send the request again, as in Retry-After; only where that is known.",
    )


class ErrorBody(BaseModel):
    """Body of every error response."""

    error: ErrorDetail
