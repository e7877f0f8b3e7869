"""Plans: requests with all defaults resolved, ready to be carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.clients.encoder import EncodeArgs, EncoderInfo
from gateway.clients.llm import LLMInfo, LlmPrunerArgs, Sampling
from gateway.http.schemas.answer import CacheMode

__all__ = ["ActivationMapsPlan", "AnswerPlan", "EncodePlan", "ExplainPlan"]


@dataclass(frozen=True)
class EncodePlan:
    """Plan of one call to the encoder service.

    Attributes:
        fields: Fields of this request that stand for `question`, `image` and `video` in errors of the services.
        encode: Arguments of the call.
        encoder: Info of the encoder service at the time the cache key was computed.
        visual_tokens_key: Cache key of the result.
        cache: Use of the caches.
        deadline: Event-loop time in seconds.
    """

    fields: Mapping[str, str]
    encode: EncodeArgs
    encoder: EncoderInfo
    visual_tokens_key: str
    cache: CacheMode
    deadline: float


@dataclass(frozen=True)
class AnswerPlan(EncodePlan):
    """Plan of one answer.

    Attributes:
        input_ids: Ids of the language model's prompt.
        sampling: Sampling parameters.
        llm_pruner: Pruner inside the language model; None for none.
        llm: Info of the LLM service at the time the cache keys were computed.
        answer_key: Cache key of the answer; None if it may be neither cached nor shared.
        tokenize_ms: Time spent on tokenization, in milliseconds.
    """

    input_ids: list[int]
    sampling: Sampling
    llm_pruner: LlmPrunerArgs | None
    llm: LLMInfo
    answer_key: str | None
    tokenize_ms: float

    @property
    def shared_key(self) -> str | None:
        """Key under which the answer may come from the cache or from an identical request in progress."""
        return self.answer_key if self.cache == "use" else None


@dataclass(frozen=True)
class ActivationMapsPlan:
    """Plan of the activation maps, in addition to the call with the request's pruner.

    Attributes:
        vanilla, decoupled: Calls with DeSAP and its vanilla or decoupled similarity.
        unpruned: Call that returns all visual tokens, for the language model.
        input_ids: Ids of the language model's prompt.
        layer: Layer of the language model whose attention is shown, from 0; None for the LLM service's default.
    """

    vanilla: EncodePlan
    decoupled: EncodePlan
    unpruned: EncodePlan
    input_ids: list[int]
    layer: int | None


@dataclass(frozen=True)
class ExplainPlan(EncodePlan):
    """Plan of one explanation.

    Attributes:
        maps: Plan of the activation maps; None if they were not requested.
    """

    maps: ActivationMapsPlan | None
