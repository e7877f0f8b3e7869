"""A request made definite: limits checked, defaults resolved, the question written as ids, cache keys made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from fovea.errors import CheckpointMismatch, InvalidRequest, NotFound
from gateway.cache.keys import SamplingKey, answer_key, visual_tokens_key
from gateway.clients.encoder import EncoderInfo
from gateway.clients.llm import LLMInfo, LlmPrunerArgs, Sampling
from gateway.encode_args import build_encode_args, build_encode_key
from gateway.limits import check_explained, check_family, check_media_inputs, check_text, video_field
from gateway.media_loader import Media
from gateway.plans import ActivationMapsPlan, AnswerPlan, EncodePlan, ExplainPlan
from gateway.question import MediaInputs, Question
from gateway.schemas.answer import AnswerRequest, LlmPrunerRequest, QuestionRequest
from gateway.schemas.explain import ExplainRequest
from gateway.settings import GatewaySettings
from gateway.tokenizers import PromptTokenizer, TextTowerTokenizer

__all__ = ["RequestPlanner"]

_MAX_TEXT_IDS: Final = 8192  # that the encoder service accepts


class RequestPlanner:
    """Makes plans.

    Args:
        settings: Limits and defaults.
        prompt_tokenizer: For the language model.
        text_tower_tokenizer: For the encoder's text tower; None for families that have none.
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

    def writes_text_for(self, encoder: EncoderInfo) -> bool:
        """Whether there is a tokenizer for the questions that this encoder reads."""
        return encoder.reads_language_model_ids or self._text_tower_tokenizer is not None

    def check(self, request: QuestionRequest, question: Question, sources: MediaInputs) -> float:
        """Holds a request against this server's limits; returns its time in seconds.

        Raises:
            NotFound: Another model was asked for.
            InvalidRequest: A limit is passed.
        """
        settings = self.settings
        if request.model not in (None, settings.model_name):
            raise NotFound(f"model {request.model!r:.80} is not served here; {settings.model_name!r} is", param="model")
        check_text(question, settings)
        check_media_inputs(request, sources, settings)
        if isinstance(request, ExplainRequest):
            check_explained(request, sources)
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
        self,
        request: AnswerRequest,
        question: Question,
        media: Media,
        *,
        encoder: EncoderInfo,
        llm: LLMInfo,
        deadline: float,
    ) -> AnswerPlan:
        """The plan for a request that passed `check`.

        Raises:
            NotFound: No such pruner inside the language model, or one of its pruners named on the encoder's side.
            InvalidRequest: The model does not take that many pictures or videos, the question cannot be asked about
                them, or it is too long whatever is pruned.
            CheckpointMismatch: The encoder wants questions in ids that this gateway cannot write.
        """
        check_family(request, media, encoder)
        name = self._pruner(request, encoder)
        if name in {pruner.name for pruner in llm.pruners}:
            raise NotFound(f"pruner {name!r} works inside the language model; name it in llm_pruner", param="pruner")
        _check_budget(request, name, encoder)
        llm_pruner = _llm_pruner(request.llm_pruner, llm)
        start = time.perf_counter()
        input_ids = self._input_ids(question, media)
        _check_prompt_length(len(input_ids), llm, question.param)
        text_ids = self._text_ids(question, name, encoder)
        tokenize_ms = (time.perf_counter() - start) * 1000

        encode = build_encode_args(
            request,
            media,
            encoder,
            self.settings,
            pruner=name,
            text_ids=text_ids,
            order=self._order(input_ids, media),
            wire_dtype=request.wire_dtype,
            max_wire_bytes=request.max_wire_bytes,
            explain=request.explain,
        )
        key = build_encode_key(encode, media, request, encoder)
        sampling = Sampling(request.max_tokens, request.temperature, request.top_p, request.seed, request.stop)
        cacheable = request.deterministic and request.cache != "bypass" and not request.explain
        whole_key = answer_key(
            key,
            input_ids,
            SamplingKey(**asdict(sampling)),
            llm.fingerprints,
            llm_pruner=None if llm_pruner is None else asdict(llm_pruner),
        )
        return AnswerPlan(
            fields=_fields(question, media),
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

    def explain(
        self,
        request: ExplainRequest,
        question: Question,
        media: Media,
        *,
        encoder: EncoderInfo,
        llm: LLMInfo | None,
        deadline: float,
    ) -> ExplainPlan:
        """The plan for a request that passed `check`; `llm` is needed for its maps alone.

        Raises:
            InvalidRequest: As for `plan`; or the maps are wanted of an encoder without DeSAP.
        """
        check_family(request, media, encoder)
        name = self._pruner(request, encoder)
        _check_budget(request, name, encoder)
        input_ids = self._input_ids(question, media)

        def encoding(pruner: str, params: Mapping[str, Any], *, explain: bool = True) -> EncodePlan:
            encode = build_encode_args(
                request.model_copy(
                    update={"pruner_params": params} | ({} if pruner == name else _without_auto(request))
                ),
                media,
                encoder,
                self.settings,
                pruner=pruner,
                text_ids=self._text_ids(question, pruner, encoder),
                order=self._order(input_ids, media),
                wire_dtype=None,
                max_wire_bytes=None,
                explain=explain,
            )
            key = visual_tokens_key(build_encode_key(encode, media, request, encoder))
            return EncodePlan(_fields(question, media), encode, encoder, key, request.cache, deadline)

        maps = None
        if request.maps:
            assert llm is not None
            _check_prompt_length(len(input_ids), llm, question.param)
            missing = {"desap", "none"} - {offered.name for offered in encoder.pruners}
            if missing:
                raise InvalidRequest(
                    f"maps need the pruner {min(missing)!r}, which this encoder service does not offer", param="maps"
                )
            params = request.pruner_params if name == "desap" else {}
            maps = ActivationMapsPlan(
                vanilla=encoding("desap", {**params, "similarity": "vanilla"}),
                decoupled=encoding("desap", {**params, "similarity": "decoupled"}),
                every=encoding("none", {}, explain=False),
                input_ids=input_ids,
                layer=request.cross_attention_layer,
            )
        return ExplainPlan(**vars(encoding(name, request.pruner_params)), maps=maps)

    def _pruner(self, request: QuestionRequest, encoder: EncoderInfo) -> str:
        return request.pruner or self.settings.pruner or encoder.default_pruner

    def _input_ids(self, question: Question, media: Media) -> list[int]:
        if question.turns is not None:
            return self.prompt_tokenizer.encode_history(question.turns)
        return self.prompt_tokenizer.encode(question.text, num_images=len(media.images), num_videos=len(media.videos))

    def _order(self, input_ids: list[int], media: Media) -> list[int]:
        return self.prompt_tokenizer.media_order(input_ids, len(media.images))

    def _text_ids(self, question: Question, pruner: str, encoder: EncoderInfo) -> list[int]:
        """The question for the encoder; empty for a pruner that does not read it."""
        # One that is not listed goes to the encoder all the same: it says whether there is none of that name, or which
        # ones work on its family instead.
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
    return {"question": question.param, "image": media.field, "video": video_field(media)}


def _without_auto(request: QuestionRequest) -> dict[str, Any]:
    """For a pruner that the request does not name, and that cannot choose a budget."""
    return {"keep_tokens": None} if request.keep_tokens == "auto" else {}


def _check_budget(request: QuestionRequest, name: str, encoder: EncoderInfo) -> None:
    """Refuses to leave the budget to a pruner that cannot choose one."""
    able = [pruner.name for pruner in encoder.pruners if pruner.chooses_budget]
    if request.keep_tokens == "auto" and name not in able:
        raise InvalidRequest(
            f"pruner {name!r:.80} cannot choose its budget; give keep_tokens as a count or keep_ratio."
            f" {', '.join(able) or 'no pruner of this server'} can",
            param="keep_tokens",
        )


def _check_prompt_length(prompt_ids: int, llm: LLMInfo, param: str) -> None:
    # A picture is one id here and at least one visual token later; one more position is for the answer.
    excess = prompt_ids + 1 - llm.max_model_len
    if excess > 0:
        raise InvalidRequest(
            f"{param} is too long: with its prompt and one visual token for each picture it has {prompt_ids} tokens;"
            f" that is {excess} more than the model's context of {llm.max_model_len} leaves room for",
            param=param,
        )


def _llm_pruner(asked: LlmPrunerRequest | None, llm: LLMInfo) -> LlmPrunerArgs | None:
    if asked is None:
        return None
    names = [pruner.name for pruner in llm.pruners]
    if not names:
        raise InvalidRequest(
            "llm_pruner is not accepted: this model, or its engine, cannot prune inside the language model"
            " (--engine transformers of the LLM service can, in a Llama)",
            param="llm_pruner",
        )
    if asked.name not in names:
        raise NotFound(
            f"there is no llm_pruner {asked.name!r:.80}; accepted are {', '.join(names)}", param="llm_pruner"
        )
    return LlmPrunerArgs(asked.name, asked.params, asked.keep_tokens, asked.keep_ratio)
