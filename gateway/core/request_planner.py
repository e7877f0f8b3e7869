"""Planner of requests: checks limits, resolves defaults, tokenizes, and computes cache keys."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from fovea.errors import CheckpointMismatch, InvalidRequest, NotFound
from gateway.cache.keys import EncodeKey, SamplingKey, answer_key, visual_tokens_key
from gateway.clients.encoder import EncoderInfo
from gateway.clients.llm import LLMInfo, LlmPrunerArgs, Sampling
from gateway.core.encode_args import EncodeDefaults, EncodeOptions, build_encode_args, build_encode_key
from gateway.core.limits import check_explained, check_family, check_media_inputs, check_text, video_field
from gateway.core.plans import ActivationMapsPlan, AnswerPlan, EncodePlan, ExplainPlan
from gateway.core.question import MediaInputs, Question
from gateway.http.schemas.answer import AnswerRequest, LlmPrunerRequest, QuestionRequest
from gateway.http.schemas.explain import ExplainRequest
from gateway.media.loader import Media
from gateway.settings import GatewaySettings
from gateway.tokenization.tokenizers import PromptTokenizer, TextTowerTokenizer

__all__ = ["RequestPlanner"]

_MAX_TEXT_IDS: Final = 8192
"""Maximum number of a question's token ids that the encoder service accepts."""


class RequestPlanner:
    """Planner of answers and explanations.

    Args:
        settings: Limits and defaults of this gateway.
        prompt_tokenizer: Tokenizer of the language model's prompts.
        text_tower_tokenizer: Tokenizer of the encoder's text tower; None for families without one.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        prompt_tokenizer: PromptTokenizer,
        text_tower_tokenizer: TextTowerTokenizer | None,
    ) -> None:
        self.settings = settings
        self.prompt_tokenizer = prompt_tokenizer
        self._text_tower_tokenizer = text_tower_tokenizer

    def can_tokenize_for(self, encoder: EncoderInfo) -> bool:
        """Whether there is a tokenizer for the questions that this encoder reads."""
        return encoder.reads_language_model_ids or self._text_tower_tokenizer is not None

    def check(self, request: QuestionRequest, question: Question, media_inputs: MediaInputs) -> float:
        """Checks a request against the limits of this gateway, and returns its timeout in seconds.

        Raises:
            NotFound: The request names a model that is not served.
            InvalidRequest: The request exceeds a limit.
        """
        settings = self.settings
        if request.model not in (None, settings.model_name):
            raise NotFound(f"model {request.model!r:.80} is not served here; {settings.model_name!r} is", param="model")
        check_text(question, settings)
        check_media_inputs(request, media_inputs, settings)
        if isinstance(request, ExplainRequest):
            check_explained(request, media_inputs)
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

    def plan_answer(
        self,
        request: AnswerRequest,
        question: Question,
        media: Media,
        *,
        encoder: EncoderInfo,
        llm: LLMInfo,
        deadline: float,
    ) -> AnswerPlan:
        """Plan of an answer. The request has passed `check`.

        Raises:
            NotFound: `llm_pruner` names an unknown pruner, or `pruner` names one that works inside the language model.
            InvalidRequest: The model does not take these media, the chat template refuses the question, or the prompt
                is too long even when pruned to one visual token for each image and video.
            CheckpointMismatch: The gateway has no tokenizer for the questions that the encoder reads.
        """
        check_family(request, media, encoder)
        pruner = self._pruner(request, encoder)
        if pruner in {offered.name for offered in llm.pruners}:
            raise NotFound(f"pruner {pruner!r} works inside the language model; name it in llm_pruner", param="pruner")
        _check_auto_budget(request, pruner, encoder)
        llm_pruner = _llm_pruner(request.llm_pruner, llm)
        start = time.perf_counter()
        input_ids = self._input_ids(question, media)
        _check_prompt_length(len(input_ids), llm, question.param)
        text_ids = self._text_ids(question, pruner, encoder)
        tokenize_ms = (time.perf_counter() - start) * 1000
        encode = build_encode_args(
            request,
            media,
            _answer_options(request, pruner),
            EncodeDefaults.of(self.settings, encoder),
            text_ids=text_ids,
            media_order=self._media_order(input_ids, media),
        )
        encode_key = build_encode_key(encode, media, request, encoder)
        sampling = Sampling(request.max_tokens, request.temperature, request.top_p, request.seed, request.stop)
        return AnswerPlan(
            fields=_fields(question, media),
            encode=encode,
            input_ids=input_ids,
            sampling=sampling,
            llm_pruner=llm_pruner,
            encoder=encoder,
            llm=llm,
            visual_tokens_key=visual_tokens_key(encode_key),
            answer_key=_answer_key(request, encode_key, input_ids, sampling, llm, llm_pruner),
            cache=request.cache,
            deadline=deadline,
            tokenize_ms=tokenize_ms,
        )

    def plan_explanation(
        self,
        request: ExplainRequest,
        question: Question,
        media: Media,
        *,
        encoder: EncoderInfo,
        llm: LLMInfo | None,
        deadline: float,
    ) -> ExplainPlan:
        """Plan of an explanation. The request has passed `check`; `llm` is required if it asks for activation maps.

        Raises:
            InvalidRequest: See `plan_answer`, or the encoder does not offer the pruners that activation maps need.
            CheckpointMismatch: See `plan_answer`.
        """
        check_family(request, media, encoder)
        pruner = self._pruner(request, encoder)
        _check_auto_budget(request, pruner, encoder)
        input_ids = self._input_ids(question, media)

        def plan_encode(options: EncodeOptions) -> EncodePlan:
            encode = build_encode_args(
                request,
                media,
                options,
                EncodeDefaults.of(self.settings, encoder),
                text_ids=self._text_ids(question, options.pruner, encoder),
                media_order=self._media_order(input_ids, media),
            )
            key = visual_tokens_key(build_encode_key(encode, media, request, encoder))
            return EncodePlan(_fields(question, media), encode, encoder, key, request.cache, deadline)

        maps = None
        if request.maps:
            assert llm is not None
            _check_prompt_length(len(input_ids), llm, question.param)
            options = _maps_options(request, pruner, encoder)
            maps = ActivationMapsPlan(
                vanilla=plan_encode(options["vanilla"]),
                decoupled=plan_encode(options["decoupled"]),
                unpruned=plan_encode(options["unpruned"]),
                input_ids=input_ids,
                layer=request.cross_attention_layer,
            )
        plan = plan_encode(EncodeOptions(pruner, request.pruner_params, request.keep_tokens))
        return ExplainPlan(**vars(plan), maps=maps)

    def _pruner(self, request: QuestionRequest, encoder: EncoderInfo) -> str:
        return request.pruner or self.settings.pruner or encoder.default_pruner

    def _input_ids(self, question: Question, media: Media) -> list[int]:
        if question.turns is not None:
            return self.prompt_tokenizer.encode_history(question.turns)
        return self.prompt_tokenizer.encode(question.text, num_images=len(media.images), num_videos=len(media.videos))

    def _media_order(self, input_ids: list[int], media: Media) -> list[int]:
        return self.prompt_tokenizer.media_order(input_ids, len(media.images))

    def _text_ids(self, question: Question, pruner: str, encoder: EncoderInfo) -> list[int]:
        """Ids of the question for the encoder; empty for a pruner that reads no text."""
        # An unknown pruner counts as one that reads text. The encoder refuses the request and lists its pruners.
        if not all(offered.reads_text for offered in encoder.pruners if offered.name == pruner):
            return []
        text = question.text if question.turns is not None else self.prompt_tokenizer.without_markers(question.text)
        text_ids = self._encode_text(text, encoder)
        if len(text_ids) > _MAX_TEXT_IDS:
            raise InvalidRequest(
                f"{question.param} is too long: its text has {len(text_ids):,} tokens for the encoder; up to"
                f" {_MAX_TEXT_IDS:,} are accepted",
                param=question.param,
            )
        return text_ids

    def _encode_text(self, text: str, encoder: EncoderInfo) -> list[int]:
        if encoder.reads_language_model_ids:
            return self.prompt_tokenizer.encode_plain(text)
        if self._text_tower_tokenizer is None:
            raise CheckpointMismatch(
                "the encoder service reads questions through a text tower, and this gateway was started without one"
            )
        return self._text_tower_tokenizer.encode(text)


def _fields(question: Question, media: Media) -> Mapping[str, str]:
    """Fields of the client's request, by the `param` of errors."""
    return {"question": question.param, "image": media.field, "video": video_field(media)}


def _answer_options(request: AnswerRequest, pruner: str) -> EncodeOptions:
    return EncodeOptions(
        pruner=pruner,
        pruner_params=request.pruner_params,
        keep_tokens=request.keep_tokens,
        wire_dtype=request.wire_dtype,
        max_wire_bytes=request.max_wire_bytes,
        explain=request.explain,
    )


def _answer_key(
    request: AnswerRequest,
    encode_key: EncodeKey,
    input_ids: list[int],
    sampling: Sampling,
    llm: LLMInfo,
    llm_pruner: LlmPrunerArgs | None,
) -> str | None:
    """Cache key of the answer; None if it may be neither cached nor shared."""
    if not request.deterministic or request.cache == "bypass" or request.explain:
        return None
    return answer_key(
        encode_key,
        input_ids,
        SamplingKey(**asdict(sampling)),
        llm.fingerprints,
        llm_pruner=None if llm_pruner is None else asdict(llm_pruner),
    )


def _maps_options(request: ExplainRequest, pruner: str, encoder: EncoderInfo) -> dict[str, EncodeOptions]:
    """Options of the encode calls that activation maps need, by attribute of `ActivationMapsPlan`."""
    missing = {"desap", "none"} - {offered.name for offered in encoder.pruners}
    if missing:
        raise InvalidRequest(
            f"maps need the pruner {min(missing)!r}, which this encoder service does not offer", param="maps"
        )
    params = request.pruner_params if pruner == "desap" else {}

    def options(name: str, params: Mapping[str, Any], *, explain: bool = True) -> EncodeOptions:
        # "auto" is meant for the pruner of the request. The other pruners of the maps cannot choose a budget.
        is_auto = request.keep_tokens == "auto" and name != pruner
        return EncodeOptions(name, params, None if is_auto else request.keep_tokens, explain=explain)

    return {
        "vanilla": options("desap", {**params, "similarity": "vanilla"}),
        "decoupled": options("desap", {**params, "similarity": "decoupled"}),
        "unpruned": options("none", {}, explain=False),
    }


def _check_auto_budget(request: QuestionRequest, pruner: str, encoder: EncoderInfo) -> None:
    """Refuses the budget `auto` for a pruner that cannot choose its budget."""
    auto_pruners = [offered.name for offered in encoder.pruners if offered.chooses_budget]
    if request.keep_tokens == "auto" and pruner not in auto_pruners:
        raise InvalidRequest(
            f"pruner {pruner!r:.80} cannot choose its budget; give keep_tokens as a count or keep_ratio."
            f" {', '.join(auto_pruners) or 'no pruner of this server'} can",
            param="keep_tokens",
        )


def _check_prompt_length(num_ids: int, llm: LLMInfo, param: str) -> None:
    # Each image or video has one id here and at least one visual token later. The answer needs one more position.
    excess = num_ids + 1 - llm.max_model_len
    if excess > 0:
        raise InvalidRequest(
            f"{param} is too long: with its prompt and one visual token for each image it has {num_ids} tokens;"
            f" that is {excess} more than the model's context of {llm.max_model_len} leaves room for",
            param=param,
        )


def _llm_pruner(requested: LlmPrunerRequest | None, llm: LLMInfo) -> LlmPrunerArgs | None:
    if requested is None:
        return None
    names = [pruner.name for pruner in llm.pruners]
    if not names:
        raise InvalidRequest(
            "llm_pruner is not accepted: this model, or its engine, cannot prune inside the language model"
            " (--engine transformers of the LLM service can, in a Llama)",
            param="llm_pruner",
        )
    if requested.name not in names:
        raise NotFound(
            f"there is no llm_pruner {requested.name!r:.80}; accepted are {', '.join(names)}", param="llm_pruner"
        )
    return LlmPrunerArgs(requested.name, requested.params, requested.keep_tokens, requested.keep_ratio)
