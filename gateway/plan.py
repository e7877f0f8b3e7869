"""A request made definite: limits checked, defaults resolved, the question written as ids, cache keys made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from fovea.errors import InvalidRequest, NotFound
from gateway.cache.keys import EncodeKey, SamplingKey, answer_key, visual_tokens_key
from gateway.clients.encoder import EncodeCall, EncoderInfo
from gateway.clients.llm import LLMInfo, LlmPrunerCall, Sampling
from gateway.clients.pruner_info import PrunerInfo
from gateway.media import Picture
from gateway.schemas.answer import AnswerRequest, CacheMode, LlmPruner
from gateway.settings import GatewaySettings
from gateway.tokenizers import PromptTokenizer, TextTowerTokenizer

__all__ = ["Plan", "Planner"]

_MAX_TEXT_IDS: Final = 8192  # that the encoder service accepts


@dataclass(frozen=True)
class Plan:
    """Everything that is to be done for one request.

    Attributes:
        encode: The call to the encoder service.
        input_ids: The prompt for the language model.
        sampling: Sampling parameters.
        llm_pruner: What prunes inside the language model, if anything.
        encoder, llm: Who the services were when the keys were made.
        visual_tokens_key: Cache key of the encoder's output.
        answer_key: Cache key of the answer; None where it may neither be cached nor shared.
        cache: How the caches are to be used.
        deadline: Time of the event loop.
        tokenize_ms: How long the ids took.
    """

    encode: EncodeCall
    input_ids: list[int]
    sampling: Sampling
    llm_pruner: LlmPrunerCall | None
    encoder: EncoderInfo
    llm: LLMInfo
    visual_tokens_key: str
    answer_key: str | None
    cache: CacheMode
    deadline: float
    tokenize_ms: float

    @property
    def shared_key(self) -> str | None:
        """Key under which the answer may come from a cache or from an identical request in progress."""
        return self.answer_key if self.cache == "use" else None


class Planner:
    """Makes plans.

    Args:
        settings: Limits and defaults.
        prompt_tokenizer: For the language model.
        text_tower_tokenizer: For the encoder's text tower.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        prompt_tokenizer: PromptTokenizer,
        text_tower_tokenizer: TextTowerTokenizer,
    ) -> None:
        self.settings = settings
        self.prompt_tokenizer = prompt_tokenizer
        self._text_tower_tokenizer = text_tower_tokenizer

    def check(self, request: AnswerRequest) -> float:
        """Holds a request against this server's limits; returns its time in seconds.

        Raises:
            NotFound: Another model was asked for.
            InvalidRequest: A limit is passed.
        """
        settings = self.settings
        if request.model not in (None, settings.model_name):
            raise NotFound(f"model {request.model!r:.80} is not served here; {settings.model_name!r} is", param="model")
        if len(request.question) > settings.max_question_chars:
            raise InvalidRequest(
                f"question has {len(request.question):,} characters; 1 to {settings.max_question_chars:,} are accepted",
                param="question",
            )
        if request.max_tokens > settings.max_tokens:
            raise InvalidRequest(
                f"max_tokens is {request.max_tokens}; 1 to {settings.max_tokens} are accepted", param="max_tokens"
            )
        timeout_s = request.timeout_s or settings.default_timeout_s
        if timeout_s > settings.max_timeout_s:
            raise InvalidRequest(
                f"timeout_s is {timeout_s:g}; up to {settings.max_timeout_s:g} is accepted", param="timeout_s"
            )
        return timeout_s

    def plan(
        self, request: AnswerRequest, image: Picture, *, encoder: EncoderInfo, llm: LLMInfo, deadline: float
    ) -> Plan:
        """The plan for a request that passed `check`.

        Raises:
            NotFound: No such pruner.
            InvalidRequest: The question cannot be asked about one picture, or is too long whatever is pruned.
        """
        name = request.pruner or self.settings.pruner or encoder.default_pruner
        if name in {pruner.name for pruner in llm.pruners}:
            raise NotFound(f"pruner {name!r} works inside the language model; name it in llm_pruner", param="pruner")
        pruner = _pruner(name, encoder.pruners, "pruner")
        llm_pruner = _llm_pruner(request.llm_pruner, llm)
        start = time.perf_counter()
        input_ids = self.prompt_tokenizer.encode(request.question, num_images=1)
        text_ids = self._text_tower_tokenizer.encode(request.question) if pruner.reads_text else []
        _check_length(len(input_ids), len(text_ids), llm)
        tokenize_ms = (time.perf_counter() - start) * 1000

        keep_ratio = request.keep_ratio
        if request.keep_tokens is None and keep_ratio is None and request.max_wire_bytes is None:
            keep_ratio = self.settings.keep_ratio or encoder.default_keep_ratio
        wire_dtype = request.wire_dtype or self.settings.wire_dtype or encoder.default_wire_dtype
        encode = EncodeCall(
            images=[image.data],
            text_ids=text_ids,
            pruner=pruner.name,
            pruner_params=request.pruner_params,
            keep_tokens=request.keep_tokens,
            keep_ratio=keep_ratio,
            wire_dtype=request.wire_dtype if request.max_wire_bytes else wire_dtype,
            max_wire_bytes=request.max_wire_bytes,
            explain=request.explain,
        )
        sampling = Sampling(request.max_tokens, request.temperature, request.top_p, request.seed, request.stop)
        key = EncodeKey(
            image_sha256=[image.sha256],
            text_ids=text_ids,
            pruner=encode.pruner,
            pruner_params=encode.pruner_params,
            keep_tokens=encode.keep_tokens,
            keep_ratio=encode.keep_ratio,
            wire_dtype=encode.wire_dtype,
            max_wire_bytes=encode.max_wire_bytes,
            explain=encode.explain,
            fingerprints=encoder.fingerprints,
        )
        cacheable = request.deterministic and request.cache != "bypass" and not request.explain
        whole_key = answer_key(
            key,
            input_ids,
            SamplingKey(**asdict(sampling)),
            llm.fingerprints,
            llm_pruner=None if llm_pruner is None else asdict(llm_pruner),
        )
        return Plan(
            encode=encode,
            input_ids=input_ids,
            sampling=sampling,
            llm_pruner=llm_pruner,
            encoder=encoder,
            llm=llm,
            visual_tokens_key=visual_tokens_key(key),
            answer_key=whole_key if cacheable else None,
            cache=request.cache,
            deadline=deadline,
            tokenize_ms=tokenize_ms,
        )


def _check_length(prompt_ids: int, text_ids: int, llm: LLMInfo) -> None:
    # A picture is one id here and at least one visual token later; one more position is for the answer.
    excess = prompt_ids + 1 - llm.max_model_len
    if excess > 0:
        raise InvalidRequest(
            f"question is too long: with its prompt and one visual token it has {prompt_ids} tokens; that is {excess}"
            f" more than the model's context of {llm.max_model_len} leaves room for",
            param="question",
        )
    if text_ids > _MAX_TEXT_IDS:
        raise InvalidRequest(
            f"question is too long: it has {text_ids:,} tokens for the text tower; up to {_MAX_TEXT_IDS:,} are"
            " accepted",
            param="question",
        )


def _pruner(name: str, pruners: Sequence[PrunerInfo], param: str) -> PrunerInfo:
    for pruner in pruners:
        if pruner.name == name:
            return pruner
    accepted = ", ".join(pruner.name for pruner in pruners) or "none, for this engine cannot prune"
    raise NotFound(f"there is no {param} {name!r:.80}; accepted are {accepted}", param=param)


def _llm_pruner(asked: LlmPruner | None, llm: LLMInfo) -> LlmPrunerCall | None:
    if asked is None:
        return None
    pruner = _pruner(asked.name, llm.pruners, "llm_pruner")
    return LlmPrunerCall(pruner.name, asked.params, asked.keep_tokens, asked.keep_ratio)
