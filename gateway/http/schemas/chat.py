"""Request of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from fovea.sampling_ranges import TOP_LOGPROBS
from gateway.http.schemas.chat_messages import ChatMessage
from gateway.http.schemas.options import AnswerOptions, SamplingOptions

__all__ = ["ChatCompletionRequest", "FoveaOptions"]


class FoveaOptions(AnswerOptions):
    """Options of Fovea that OpenAI's API does not have. Each has the meaning that it has in `POST /v1/answer`."""


class _StreamOptions(BaseModel):
    """Options of the stream. Others than this one are ignored."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    include_usage: bool = False
    """Whether the last chunk of a stream has the usage, and no choices."""


def _all_as_zero(top_k: Any) -> Any:
    return 0 if type(top_k) is int and top_k == -1 else top_k


def _unsigned(seed: Any) -> Any:
    return seed % 2**64 if type(seed) is int and -(2**63) <= seed < 0 else seed


class ChatCompletionRequest(SamplingOptions):
    """A request in OpenAI's format. Unknown fields are ignored, and null is the same as a field that is left out."""

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=256)]
    """The chat, which ends with a turn of `user`. Its text is the question for which the visual tokens of all images,
    also of earlier turns, are pruned. Images and videos are optional."""

    model: str | None = None
    """Name of the served model, or an alias `NAME@PRUNER:KEEP_TOKENS` of it. Any other name is refused with status
    404. Left out: the served model."""

    max_completion_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of tokens to generate. A number above the server's limit, 2048 by default, stands for that limit.
    Left out: `max_tokens`."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Older name of `max_completion_tokens`, which takes precedence. Left out: all that the context leaves, up to the
    server's limit."""

    top_k: Annotated[int | None, Field(ge=0, lt=2**31), BeforeValidator(_all_as_zero)] = None
    """Number of the most probable tokens that are sampled from; 0 or -1 for all. Left out: 0, unless the server takes
    the checkpoint's."""

    seed: Annotated[int | None, Field(ge=0, lt=2**64), BeforeValidator(_unsigned)] = None
    """Seed of the sampling; negative ones are accepted too. With a seed, the answer is reproducible and can be
    cached."""

    n: Literal[1] = 1
    """Number of answers."""

    response_format: Any = None
    """`{"type": "text"}` is accepted."""

    stream: bool = False
    """Whether to send server-sent events: chunks of the answer, then `[DONE]`."""

    stream_options: _StreamOptions = Field(default_factory=_StreamOptions)
    """Options of the stream."""

    logprobs: bool = False
    """Whether to report the log-probability of each token of the answer."""

    top_logprobs: int | None = Field(default=None, ge=0, le=int(TOP_LOGPROBS.maximum))
    """Number of most probable tokens to report in place of each token, with `logprobs`."""

    ignore_eos: bool = False
    """Whether to generate until the maximum number of tokens, beyond the end of the answer, for load tests."""

    user: Any = None
    """Identifier of a user; accepted without effect."""

    fovea: FoveaOptions | None = None
    """Pruner, budget and other options of Fovea, as in `POST /v1/answer`. Unknown fields in it are refused. With it,
    the response has a field `fovea` as well."""

    @model_validator(mode="after")
    def _logprobs_are_asked_for(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs goes with logprobs true; send both, or neither")
        return self

    @property
    def num_top_logprobs(self) -> int | None:
        """Number of most probable tokens to report; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None
