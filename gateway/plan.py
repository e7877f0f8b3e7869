"""A request made definite: limits checked, defaults resolved, the question written as ids, cache keys made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from fovea.errors import CheckpointMismatch, InvalidRequest, NotFound
from gateway.cache.keys import EncodeKey, SamplingKey, answer_key, visual_tokens_key
from gateway.clients.encoder import EncodeCall, EncoderInfo, VideoCall
from gateway.clients.llm import LLMInfo, LlmPrunerCall, Sampling
from gateway.gathering import Media
from gateway.limits import check_explained, check_family, check_sources, check_text, video_field
from gateway.media import Video
from gateway.question import Question, Sources
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
        fields: What this request calls the fields `question`, `image` and `video`, of which services speak.
        encode: The call to the encoder service.
        encoder: Who it was when the key was made.
        visual_tokens_key: Cache key of its output.
        cache: How the caches are to be used.
        deadline: Time of the event loop.
    """

    fields: Mapping[str, str]
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

    def check(self, request: PictureQuestion, question: Question, sources: Sources) -> float:
        """Holds a request against this server's limits; returns its time in seconds.

        Raises:
            NotFound: Another model was asked for.
            InvalidRequest: A limit is passed.
        """
        settings = self.settings
        if request.model not in (None, settings.model_name):
            raise NotFound(f"model {request.model!r:.80} is not served here; {settings.model_name!r} is", param="model")
        check_text(question, settings)
        check_sources(request, sources, settings)
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
    ) -> Plan:
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

        encode = self._encode_call(
            request,
            media,
            encoder,
            pruner=name,
            text_ids=text_ids,
            input_ids=input_ids,
            wire_dtype=request.wire_dtype,
            max_wire_bytes=request.max_wire_bytes,
            explain=request.explain,
        )
        key = _encode_key(encode, media, request, encoder)
        sampling = Sampling(request.max_tokens, request.temperature, request.top_p, request.seed, request.stop)
        cacheable = request.deterministic and request.cache != "bypass" and not request.explain
        whole_key = answer_key(
            key,
            input_ids,
            SamplingKey(**asdict(sampling)),
            llm.fingerprints,
            llm_pruner=None if llm_pruner is None else asdict(llm_pruner),
        )
        return Plan(
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
            encode = self._encode_call(
                request.model_copy(
                    update={"pruner_params": params} | ({} if pruner == name else _without_auto(request))
                ),
                media,
                encoder,
                pruner=pruner,
                text_ids=self._text_ids(question, pruner, encoder),
                input_ids=input_ids,
                wire_dtype=None,
                max_wire_bytes=None,
                explain=explain,
            )
            key = visual_tokens_key(_encode_key(encode, media, request, encoder))
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
            maps = MapsPlan(
                vanilla=encoding("desap", {**params, "similarity": "vanilla"}),
                decoupled=encoding("desap", {**params, "similarity": "decoupled"}),
                every=encoding("none", {}, explain=False),
                input_ids=input_ids,
                layer=request.cross_attention_layer,
            )
        return ExplainPlan(**vars(encoding(name, request.pruner_params)), maps=maps)

    def _pruner(self, request: PictureQuestion, encoder: EncoderInfo) -> str:
        return request.pruner or self.settings.pruner or encoder.default_pruner

    def _input_ids(self, question: Question, media: Media) -> list[int]:
        if question.turns is not None:
            return self.prompt_tokenizer.encode_history(question.turns)
        return self.prompt_tokenizer.encode(question.text, num_images=len(media.images), num_videos=len(media.videos))

    def _text_ids(self, question: Question, pruner: str, encoder: EncoderInfo) -> list[int]:
        """The question for the encoder; empty for a pruner that does not read it."""
        # One that is not listed goes to the encoder all the same: it says whether there is none of that name, or which
        # ones work on its family instead.
        if not all(offered.reads_text for offered in encoder.pruners if offered.name == pruner):
            return []
        text = question.text if question.turns is not None else self.prompt_tokenizer.without_marks(question.text)
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

    def _encode_call(
        self,
        request: PictureQuestion,
        media: Media,
        encoder: EncoderInfo,
        *,
        pruner: str,
        text_ids: list[int],
        input_ids: list[int],
        wire_dtype: str | None,
        max_wire_bytes: int | None,
        explain: bool,
    ) -> EncodeCall:
        keep_ratio = request.keep_ratio
        # A budget of bytes leaves what has no default to the encoder: how many tokens, and in which dtype.
        if max_wire_bytes is None:
            wire_dtype = wire_dtype or self.settings.wire_dtype or encoder.default_wire_dtype
            if request.keep_tokens is None and keep_ratio is None:
                keep_ratio = self.settings.keep_ratio or encoder.default_keep_ratio
        return EncodeCall(
            images=[image.data for image in media.images],
            text_ids=text_ids,
            pruner=pruner,
            pruner_params=request.pruner_params,
            keep_tokens=request.keep_tokens,
            keep_ratio=keep_ratio,
            wire_dtype=wire_dtype,
            max_wire_bytes=max_wire_bytes,
            explain=explain,
            videos=[_video_call(video, request) for video in media.videos],
            video_budget=(request.video_budget or "per_frame") if media.videos else None,
            order=self.prompt_tokenizer.visual_order(input_ids, len(media.images)),
        )


def _fields(question: Question, media: Media) -> Mapping[str, str]:
    return {"question": question.param, "image": media.field, "video": video_field(media)}


def _encode_key(encode: EncodeCall, media: Media, request: PictureQuestion, encoder: EncoderInfo) -> EncodeKey:
    return EncodeKey(
        image_sha256=[image.sha256 for image in media.images],
        text_ids=encode.text_ids,
        pruner=encode.pruner,
        pruner_params=encode.pruner_params,
        keep_tokens=encode.keep_tokens,
        keep_ratio=encode.keep_ratio,
        wire_dtype=encode.wire_dtype,
        max_wire_bytes=encode.max_wire_bytes,
        explain=encode.explain,
        fingerprints=encoder.fingerprints,
        videos=[_digests(video) for video in media.videos],
        num_frames=request.num_frames,
        seconds_per_frame=request.seconds_per_frame,
        video_budget=encode.video_budget,
    )


def _video_call(video: Video, request: PictureQuestion) -> VideoCall:
    if video.file is not None:
        return VideoCall(video.file.data, num_frames=request.num_frames)
    return VideoCall(frames=[frame.data for frame in video.frames], seconds_per_frame=request.seconds_per_frame)


def _digests(video: Video) -> list[str]:
    if video.file is not None:
        return ["file", video.file.sha256]
    return ["frames", *(frame.sha256 for frame in video.frames)]


def _without_auto(request: PictureQuestion) -> dict[str, Any]:
    """For a pruner that the request does not name, and that cannot choose a budget."""
    return {"keep_tokens": None} if request.keep_tokens == "auto" else {}


def _check_budget(request: PictureQuestion, name: str, encoder: EncoderInfo) -> None:
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


def _llm_pruner(asked: LlmPruner | None, llm: LLMInfo) -> LlmPrunerCall | None:
    if asked is None:
        return None
    names = [pruner.name for pruner in llm.pruners]
    if not names:
        raise InvalidRequest(
            "llm_pruner is not accepted: this model, or its engine, cannot prune inside the language model",
            param="llm_pruner",
        )
    if asked.name not in names:
        raise NotFound(
            f"there is no llm_pruner {asked.name!r:.80}; accepted are {', '.join(names)}", param="llm_pruner"
        )
    return LlmPrunerCall(asked.name, asked.params, asked.keep_tokens, asked.keep_ratio)
