"""A request made definite: limits checked, defaults resolved, the question written as ids, cache keys made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from fovea.errors import InvalidRequest, NotFound
from gateway.cache.keys import EncodeKey, SamplingKey, answer_key, visual_tokens_key
from gateway.clients.encoder import EncodeCall, EncoderInfo
from gateway.clients.llm import LLMInfo, LlmPrunerCall, Sampling
from gateway.clients.pruner_info import PrunerInfo
from gateway.media import Picture
from gateway.schemas.answer import AnswerRequest, CacheMode, LlmPruner, PictureQuestion
from gateway.schemas.explain import ExplainRequest
from gateway.settings import GatewaySettings
from gateway.tokenizers import PromptTokenizer, TextTowerTokenizer

__all__ = ["EncodePlan", "ExplainPlan", "MapsPlan", "Plan", "Planner"]

_MAX_TEXT_IDS: Final = 8192  # that the encoder service accepts


@dataclass(frozen=True)
class EncodePlan:
    """What is to be asked of the encoder service.

    Attributes:
        encode: The call to the encoder service.
        encoder: Who it was when the key was made.
        visual_tokens_key: Cache key of its output.
        cache: How the caches are to be used.
        deadline: Time of the event loop.
    """

    encode: EncodeCall
    encoder: EncoderInfo
    visual_tokens_key: str
    cache: CacheMode
    deadline: float


@dataclass(frozen=True)
class Plan(EncodePlan):
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
    llm_pruner: LlmPrunerCall | None
    llm: LLMInfo
    answer_key: str | None
    tokenize_ms: float

    @property
    def shared_key(self) -> str | None:
        """Key under which the answer may come from a cache or from an identical request in progress."""
        return self.answer_key if self.cache == "use" else None


@dataclass(frozen=True)
class MapsPlan:
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

    maps: MapsPlan | None


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

    def check(self, request: PictureQuestion) -> float:
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
        if isinstance(request, AnswerRequest) and request.max_tokens > settings.max_tokens:
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
        _check_prompt_length(len(input_ids), llm)
        text_ids = self._text_ids(request.question, pruner)
        tokenize_ms = (time.perf_counter() - start) * 1000

        encode = self._encode_call(
            request, image, pruner, text_ids, encoder, wire_dtype=request.wire_dtype, explain=request.explain
        )
        sampling = Sampling(request.max_tokens, request.temperature, request.top_p, request.seed, request.stop)
        cacheable = request.deterministic and request.cache != "bypass" and not request.explain
        whole_key = answer_key(
            _encode_key(encode, image, encoder),
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
            visual_tokens_key=visual_tokens_key(_encode_key(encode, image, encoder)),
            answer_key=whole_key if cacheable else None,
            cache=request.cache,
            deadline=deadline,
            tokenize_ms=tokenize_ms,
        )

    def explain(
        self, request: ExplainRequest, image: Picture, *, encoder: EncoderInfo, llm: LLMInfo | None, deadline: float
    ) -> ExplainPlan:
        """The plan for a request that passed `check`; `llm` is needed for its maps alone.

        Raises:
            NotFound: No such pruner.
            InvalidRequest: As for `plan`; or the maps are wanted of an encoder without DeSAP.
        """
        pruner = _pruner(request.pruner or self.settings.pruner or encoder.default_pruner, encoder.pruners, "pruner")
        input_ids = self.prompt_tokenizer.encode(request.question, num_images=1)

        def encoding(pruner: PrunerInfo, params: Mapping[str, Any], *, explain: bool = True) -> EncodePlan:
            text_ids = self._text_ids(request.question, pruner)
            asked = request.model_copy(update={"pruner_params": params})
            encode = self._encode_call(asked, image, pruner, text_ids, encoder, wire_dtype=None, explain=explain)
            key = visual_tokens_key(_encode_key(encode, image, encoder))
            return EncodePlan(encode, encoder, key, request.cache, deadline)

        maps = None
        if request.maps:
            assert llm is not None
            _check_prompt_length(len(input_ids), llm)
            missing = {"desap", "none"} - {offered.name for offered in encoder.pruners}
            if missing:
                raise InvalidRequest(
                    f"maps need the pruner {min(missing)!r}, which this encoder service does not offer", param="maps"
                )
            desap = _pruner("desap", encoder.pruners, "pruner")
            params = request.pruner_params if pruner == desap else {}
            maps = MapsPlan(
                vanilla=encoding(desap, {**params, "similarity": "vanilla"}),
                decoupled=encoding(desap, {**params, "similarity": "decoupled"}),
                every=encoding(_pruner("none", encoder.pruners, "pruner"), {}, explain=False),
                input_ids=input_ids,
                layer=request.cross_attention_layer,
            )
        return ExplainPlan(**vars(encoding(pruner, request.pruner_params)), maps=maps)

    def _text_ids(self, question: str, pruner: PrunerInfo) -> list[int]:
        text_ids = self._text_tower_tokenizer.encode(question) if pruner.reads_text else []
        if len(text_ids) > _MAX_TEXT_IDS:
            raise InvalidRequest(
                f"question is too long: it has {len(text_ids):,} tokens for the text tower; up to {_MAX_TEXT_IDS:,} are"
                " accepted",
                param="question",
            )
        return text_ids

    def _encode_call(
        self,
        request: PictureQuestion,
        image: Picture,
        pruner: PrunerInfo,
        text_ids: list[int],
        encoder: EncoderInfo,
        *,
        wire_dtype: str | None,
        explain: bool,
    ) -> EncodeCall:
        keep_ratio = request.keep_ratio
        if request.keep_tokens is None and keep_ratio is None:
            keep_ratio = self.settings.keep_ratio or encoder.default_keep_ratio
        return EncodeCall(
            images=[image.data],
            text_ids=text_ids,
            pruner=pruner.name,
            pruner_params=request.pruner_params,
            keep_tokens=request.keep_tokens,
            keep_ratio=keep_ratio,
            wire_dtype=wire_dtype or self.settings.wire_dtype or encoder.default_wire_dtype,
            explain=explain,
        )


def _encode_key(encode: EncodeCall, image: Picture, encoder: EncoderInfo) -> EncodeKey:
    return EncodeKey(
        image_sha256=[image.sha256],
        text_ids=encode.text_ids,
        pruner=encode.pruner,
        pruner_params=encode.pruner_params,
        keep_tokens=encode.keep_tokens,
        keep_ratio=encode.keep_ratio,
        wire_dtype=encode.wire_dtype,
        explain=encode.explain,
        fingerprints=encoder.fingerprints,
    )


def _check_prompt_length(prompt_ids: int, llm: LLMInfo) -> None:
    # A picture is one id here and at least one visual token later; one more position is for the answer.
    excess = prompt_ids + 1 - llm.max_model_len
    if excess > 0:
        raise InvalidRequest(
            f"question is too long: with its prompt and one visual token it has {prompt_ids} tokens; that is {excess}"
            f" more than the model's context of {llm.max_model_len} leaves room for",
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
