"""A question about images and videos, as the core sees it: without HTTP, and without the field names of any API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import LlmPruning, Sampling
from gateway.core.question_text import QuestionText

__all__ = ["CacheMode", "Question"]

CacheMode = Literal["use", "bypass", "refresh"]
"""Use of the caches: `use` reads and fills them, `refresh` only fills them, `bypass` does neither."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, its media, and what the client chose for it.

    Attributes:
        text: Text of the question.
        encode: Media and options of the encode call, as given: the planner fills in text ids and defaults. Without
            media there is no encode call.
        sampling: Sampling parameters, as given.
        llm_pruner: Pruner inside the language model; None for none.
        top_logprobs: Number of most probable tokens to report for each token of the text, with its log-probability;
            None for no log-probabilities. An answer with them is neither cached nor shared.
        cache: Use of the caches.
        cache_salt: Tenant to whom cached results belong; empty for results that all questions without a salt share.
        client: Id of the client, for its share of the encoder service.
        arrived: Event-loop time of the request's arrival, in seconds.
        deadline: Event-loop time in seconds.
    """

    text: QuestionText
    encode: EncodeSpec
    sampling: Sampling
    llm_pruner: LlmPruning | None = None
    top_logprobs: int | None = None
    cache: CacheMode = "use"
    cache_salt: str = ""
    client: str = ""
    arrived: float
    deadline: float
