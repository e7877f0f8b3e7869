"""Answers: pieces of text as they are decoded, then the whole answer with its costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import FailFast, Field

from gateway.clients.encoder import EncodeResult
from gateway.clients.replies import Box
from gateway.core.text_delta import TextDelta, TokenLogprob, TopLogprob

__all__ = ["Answer", "Completion", "Costs", "Lookup", "TextDelta", "TokenLogprob", "TopLogprob"]

Lookup = Literal["hit", "miss", "skip"]
"""Outcome of a cache look-up; `skip` if there was none."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The answer itself, in the form in which it is cached.

    Attributes:
        text: The whole text.
        finish_reason: `stop` (end of sequence or a stop string) or `length` (`max_tokens` reached).
        prompt_tokens: Number of prompt tokens, kept visual tokens included.
        completion_tokens: Number of generated tokens.
        visual_tokens_total: Number of visual tokens before pruning.
        visual_tokens_kept: Number of visual tokens that were sent to the language model.
        visual_tokens_by_layer: Number of visual tokens in each layer of the prefill; empty without `llm_pruner`.
        wire_dtype: Wire format of the visual tokens; empty if there are none.
        viewed: Area of each image or video that was seen, see `EncodeResult.viewed`.
        logprobs: Log-probabilities of the tokens of the text, in order; None unless requested. An answer with them is
            not cached.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    visual_tokens_total: int
    visual_tokens_kept: int
    visual_tokens_by_layer: Annotated[tuple[int, ...], Field(max_length=4096), FailFast()] = ()
    wire_dtype: str
    viewed: Annotated[tuple[Box, ...], Field(max_length=128), FailFast()] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of one request. The defaults are those of a cached or shared answer.

    Attributes:
        wire_bytes: Bytes of visual tokens sent to the LLM service.
        answer, visual_tokens, features: Outcome of the look-up in each cache.
        queue_ms: Queue time in both services, in milliseconds.
        encode_ms, generate_ms: Duration of the calls to the two services, in milliseconds.
    """

    wire_bytes: int = 0
    answer: Lookup = "hit"
    visual_tokens: Lookup = "skip"
    features: Lookup = "skip"
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The last event of an answer.

    Attributes:
        completion: The answer itself.
        costs: Costs of the request.
        encoded: Visual tokens with their explanations, if they were asked for; else None.
        tokenize_ms: Time of tokenization, checks and the cache key of the encode call, in milliseconds.
        time_to_first_token_ms: Time from the request's arrival to the first piece of text (TTFT), in milliseconds.
        total_ms: Time from the request's arrival to the end, in milliseconds.
    """

    completion: Completion
    costs: Costs
    encoded: EncodeResult | None
    tokenize_ms: float
    time_to_first_token_ms: float
    total_ms: float
