"""What is to be done for one request, everything resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.clients.encoder import EncodeArgs, EncoderInfo
from gateway.clients.llm import LLMInfo, LlmPrunerArgs, Sampling
from gateway.schemas.answer import CacheMode

__all__ = ["ActivationMapsPlan", "AnswerPlan", "EncodePlan", "ExplainPlan"]


@dataclass(frozen=True)
class EncodePlan:
    """What is to be asked of the encoder service.

    Attributes:
        fields: What this request calls the fields `question`, `image` and `video`, of which services speak.
        encode: The call to the encoder service.
        encoder: Who it was when the key was made.
        visual_tokens_key: Cache key of its output.
        cache: How the caches are to be used.
        deadline: Time of the event loop.
    """

    fields: Mapping[str, str]
    encode: EncodeArgs
    encoder: EncoderInfo
    visual_tokens_key: str
    cache: CacheMode
    deadline: float


@dataclass(frozen=True)
class AnswerPlan(EncodePlan):
    """Everything that is to be done for one answer.

    Attributes:
        input_ids: The prompt for the language model.
        sampling: Sampling parameters.
        llm_pruner: What prunes inside the language model, if anything.
        llm: Who the LLM service was when the keys were made.
        answer_key: Cache key of the answer; None where it may neither be cached nor shared.
        tokenize_ms: How long the ids took.
    """

    input_ids: list[int]
    sampling: Sampling
    llm_pruner: LlmPrunerArgs | None
    llm: LLMInfo
    answer_key: str | None
    tokenize_ms: float

    @property
    def shared_key(self) -> str | None:
        """Key under which the answer may come from a cache or from an identical request in progress."""
        return self.answer_key if self.cache == "use" else None


@dataclass(frozen=True)
class ActivationMapsPlan:
    """What the activation maps take beyond the pruner that was asked for.

    Attributes:
        vanilla, decoupled: DeSAP with the one similarity and the other.
        every: All visual tokens, for the language model.
        input_ids: The prompt for it.
        layer: Whose attention is wanted; None: the LLM service's own choice.
    """

    vanilla: EncodePlan
    decoupled: EncodePlan
    every: EncodePlan
    input_ids: list[int]
    layer: int | None


@dataclass(frozen=True)
class ExplainPlan(EncodePlan):
    """Everything that is to be done for one explanation.

    Attributes:
        maps: Where the activation maps are wanted.
    """

    maps: ActivationMapsPlan | None
