"""Error of a request to the gateway."""

from __future__ import annotations

from typing import Self

__all__ = ["AnswerError"]


class AnswerError(RuntimeError):
    """A request that the gateway refused, or that did not reach it. The message is for the user.

    Args:
        message: text of the error.
        status: HTTP status of the response; None for no response, and for an error inside a stream.
        code: code of the error such as `rate_limited` (docs/api.md); None for an error that the gateway did not send.
        param: field of the request that is wrong; None for none.
        retry_after_s: seconds after which the gateway accepts the request again; None for unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after_s = status, code, param, retry_after_s

    def without(self, secret: str) -> Self:
        """The same error, whose message does not contain `secret`."""
        return type(self)(
            str(self).replace(secret, "***"),
            status=self.status,
            code=self.code,
            param=self.param,
            retry_after_s=self.retry_after_s,
        )
