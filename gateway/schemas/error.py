"""The one shape of every error."""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["ErrorBody", "ErrorDetail"]


class ErrorDetail(BaseModel):
    """What was wrong and what is accepted."""

    message: str = Field(description="For people: what was wrong and what is accepted.")
    type: str = Field(description="invalid_request_error, rate_limit_error or server_error.")
    param: str | None = Field(default=None, description="The request field at fault, if there is one.")
    code: str = Field(description="For programs: malformed_request, too_large, overloaded, ...")


class ErrorBody(BaseModel):
    """The body of every response that is not a success."""

    error: ErrorDetail
