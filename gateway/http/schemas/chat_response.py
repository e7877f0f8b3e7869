"""Responses of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from gateway.clients.replies import Box
from gateway.http.schemas.answer_response import CacheReport, ImageExplanation, MediaExplanations, TimingMs

__all__ = [
    "AssistantMessage",
    "ChatChoice",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatUsage",
    "ChunkChoice",
    "CompletionTokensDetails",
    "FoveaReport",
    "PromptTokensDetails",
]


class _Response(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class PromptTokensDetails(_Response):
    """What the prompt is made of."""

    cached_tokens: int = 0
    """Always 0: prefixes that an engine has cached are not reported."""

    image_tokens: int
    """Visual tokens of all images and videos that were kept, and that the language model prefilled."""

    image_tokens_before: int
    """Visual tokens of all images and videos before pruning."""


class CompletionTokensDetails(_Response):
    """What the answer is made of."""

    reasoning_tokens: int = 0
    """Always 0."""


class ChatUsage(_Response):
    """Tokens of prompt and answer."""

    prompt_tokens: int
    """Tokens that the language model prefilled, kept visual tokens included."""

    completion_tokens: int
    """Generated tokens."""

    total_tokens: int
    """Sum of both."""

    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class FoveaReport(_Response):
    """What `POST /v1/answer` reports beyond OpenAI's format."""

    cache: CacheReport
    timing_ms: TimingMs

    wire_dtype: str
    """Wire format of the visual tokens; empty if there are none."""

    wire_bytes: int
    """Bytes of visual tokens sent to the LLM service for this answer."""

    visual_tokens_by_layer: list[int] | None = None
    """Visual tokens that each layer attended over; only with `llm_pruner`."""

    viewed: list[Box] | None = None
    """Part of each image, then of each video, that the model saw."""

    explain: ImageExplanation | MediaExplanations | None = None
    """Score maps and kept tokens; only if requested."""


class AssistantMessage(_Response):
    """The answer as a message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class TopLogprob(_Response):
    """A token and its log-probability."""

    token: str
    """The token; bytes that are no character by themselves are `\\xNN`."""

    logprob: float
    """Natural logarithm of the probability, before temperature, filters and penalties."""

    bytes: list[int]
    """The token in UTF-8."""


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]
    """The most probable tokens in its place, most probable first."""


class Logprobs(_Response):
    """Log-probabilities of tokens of the answer."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatChoice(_Response):
    """The answer and the reason of its end."""

    index: int = 0
    message: AssistantMessage

    logprobs: Logprobs | None = None
    """With `logprobs`: each token of the content."""

    finish_reason: str
    """`stop` or `length`."""


class _Completion(_Response):
    id: str
    object: str

    created: int
    """Unix time of the response in seconds."""

    model: str
    """Name that the request gave."""


class ChatCompletion(_Completion):
    """A whole answer."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: ChatUsage

    fovea: FoveaReport | None = None
    """Report of Fovea, if the request has a field `fovea`."""


class ChunkChoice(_Response):
    """A piece of the answer."""

    index: int = 0

    delta: dict[str, Any]
    """`role` in the first chunk, `content` in the following ones, nothing in that with the `finish_reason`."""

    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(_Completion):
    """An event of a stream."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"

    choices: list[ChunkChoice]
    """Empty in the chunk with the usage."""

    usage: ChatUsage | None = None
    """With `stream_options.include_usage`: null, and in the last chunk the usage."""

    fovea: FoveaReport | None = None
    """Report of Fovea in the chunk with the `finish_reason`, if the request has a field `fovea`."""
