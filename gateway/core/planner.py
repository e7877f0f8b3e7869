"""Planner: from a question to the calls that answer it, with all defaults filled in, tokenized, and with cache keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from fovea.budget import Budget
from fovea.errors import CheckpointMismatch, InvalidRequest
from gateway.clients.encoder import EncoderInfo
from gateway.clients.llm import LLMInfo
from gateway.core import limits
from gateway.core.cache_keys import answer_key, visual_tokens_key
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import GenerateSpec
from gateway.core.question import CacheMode, Question
from gateway.core.question_text import QuestionText
from gateway.settings import GatewaySettings
from gateway.tokenization.recent_ids import RecentIds
from gateway.tokenization.tokenizers import PromptTokenizer, TextTowerTokenizer

__all__ = ["AnswerPlan", "EncodePlan", "Planner"]

_MAX_TEXT_IDS: Final = 8192
"""Maximum number of a question's token ids that the encoder service accepts."""


@dataclass(frozen=True)
class EncodePlan:
    """Plan of one call to the encoder service.

    Attributes:
        spec: The call, with all defaults filled in.
        media_order: Order of the media in the prompt, see `PromptTokenizer.media_order`; None for media of one kind.
        encoder: Info of the encoder service at the time the cache key was computed.
        key: Cache key of the result.
        cache: Use of the caches.
        client: Id of the client that asks.
        deadline: Event-loop time in seconds.
    """

    spec: EncodeSpec
    media_order: Sequence[int] | None
    encoder: EncoderInfo
    key: str
    cache: CacheMode
    client: str
    deadline: float


@dataclass(frozen=True)
class AnswerPlan:
    """Plan of one answer: an encode call, unless the question has no media, then a generate call.

    Attributes:
        encode: Plan of the encode call; None for a question without media.
        generate: The generate call, with all defaults filled in.
        llm: Info of the LLM service at the time the cache key was computed.
        key: Cache key of the answer; None if it may be neither cached nor shared.
        cache: Use of the caches.
        deadline: Event-loop time in seconds.
        tokenize_ms: Time of tokenization, checks and the cache key of the encode call, in milliseconds.
    """

    encode: EncodePlan | None
    generate: GenerateSpec
    llm: LLMInfo
    key: str | None
    cache: CacheMode
    deadline: float
    tokenize_ms: float

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of the answer."""
        return self.generate.sampling.max_tokens

    @property
    def shared_key(self) -> str | None:
        """Key under which the answer may come from the cache or from an identical question in progress."""
        return self.key if self.cache == "use" else None


class Planner:
    """Planner of encode and generate calls.

    Args:
        settings: Defaults of this gateway, which go before those of the encoder service.
        prompt_tokenizer: Tokenizer of the language model's prompts.
        text_tower_tokenizer: Tokenizer of the encoder's text tower; None for families without one.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        prompt_tokenizer: PromptTokenizer,
        text_tower_tokenizer: TextTowerTokenizer | None,
    ) -> None:
        self._settings = settings
        self.prompt_tokenizer = prompt_tokenizer
        self._text_tower_tokenizer = text_tower_tokenizer
        self._recent_prompts, self._recent_texts = RecentIds(self._tokenize_prompt), RecentIds(self._tokenize_text)

    def can_tokenize_for(self, encoder: EncoderInfo) -> bool:
        """Whether there is a tokenizer for the questions that this encoder reads."""
        return encoder.reads_language_model_ids or self._text_tower_tokenizer is not None

    def plan_answer(self, question: Question, encoder: EncoderInfo, llm: LLMInfo) -> AnswerPlan:
        """Plan of an answer.

        Raises:
            NotFound: `llm_pruner` names an unknown pruner, or `pruner` names one that works inside the language model.
            InvalidRequest: The model or an engine does not take the question, see `gateway.core.limits`, or the chat
                template refuses it.
            CheckpointMismatch: A service has a checkpoint of another family, or the gateway has no tokenizer for the
                questions that the encoder reads.
        """
        limits.check_family(self.prompt_tokenizer.family, llm)
        limits.check_pruner(self._pruner(question.encode, encoder), llm)
        limits.check_llm_pruner(question.llm_pruner, llm)
        limits.check_sampling(question.sampling, llm)
        limits.check_top_logprobs(question.top_logprobs, llm)
        start = time.perf_counter()
        input_ids = self.tokenize(question, encoder)
        limits.check_prompt(len(input_ids), llm)
        encode = self.plan_encode(question, input_ids, encoder)
        tokenize_ms = (time.perf_counter() - start) * 1000
        generate = _generate(question, input_ids, llm)
        key = None
        if _is_storable(question, generate) and not encode.spec.explain:
            key = answer_key(encode.key, generate, llm.fingerprints)
        return AnswerPlan(encode, generate, llm, key, question.cache, question.deadline, tokenize_ms)

    def plan_text_answer(self, question: Question, llm: LLMInfo) -> AnswerPlan:
        """Plan of an answer to a question without media. Pruners and options of the encoder do not apply to it.

        Raises:
            NotFound, InvalidRequest, CheckpointMismatch: See `plan_answer`.
        """
        limits.check_family(self.prompt_tokenizer.family, llm)
        limits.check_llm_pruner(question.llm_pruner, llm)
        limits.check_sampling(question.sampling, llm)
        limits.check_top_logprobs(question.top_logprobs, llm)
        start = time.perf_counter()
        input_ids = self._input_ids(question)
        limits.check_prompt(len(input_ids), llm)
        tokenize_ms = (time.perf_counter() - start) * 1000
        generate = _generate(replace(question, llm_pruner=None), input_ids, llm)
        key = None
        if _is_storable(question, generate):
            key = answer_key("", generate, llm.fingerprints)
        return AnswerPlan(None, generate, llm, key, question.cache, question.deadline, tokenize_ms)

    def plan_encode(self, question: Question, input_ids: Sequence[int], encoder: EncoderInfo) -> EncodePlan:
        """Plan of the encode call of a question.

        Args:
            question: The question.
            input_ids: Its prompt, see `tokenize`.
            encoder: Info of the encoder service.

        Raises:
            InvalidRequest: The text is too long for the encoder, the pruner cannot choose its budget or takes none, or
                the encoder service does not know an option.
            CheckpointMismatch: See `plan_answer`.
        """
        spec = self._with_defaults(question, encoder)
        limits.check_auto_budget(spec, encoder)
        # The defaults of gateway and encoder are no request for a budget.
        limits.check_takes_budget(spec.pruner, question.encode.budget)
        key_request = spec.to_key_proto()
        limits.check_options(key_request, encoder)
        media_order = None
        if spec.images and spec.videos:
            media_order = self.prompt_tokenizer.media_order(input_ids, len(spec.images))
        return EncodePlan(
            spec=spec,
            media_order=media_order,
            encoder=encoder,
            key=visual_tokens_key(key_request, encoder.fingerprints),
            cache=question.cache,
            client=question.client,
            deadline=question.deadline,
        )

    def tokenize(self, question: Question, encoder: EncoderInfo) -> tuple[int, ...]:
        """Ids of the language model's prompt, with one id for each image and video.

        Raises:
            InvalidRequest: The model does not take these media, the chat template refuses the question, or its markers
                do not fit its media.
            CheckpointMismatch: The encoder service has a checkpoint of another family.
        """
        limits.check_family(self.prompt_tokenizer.family, encoder)
        limits.check_media(question.encode, encoder)
        return self._input_ids(question)

    def _input_ids(self, question: Question) -> tuple[int, ...]:
        prompt = question.text, len(question.encode.images), len(question.encode.videos)
        if self.prompt_tokenizer.reads_clock:
            return tuple(self._tokenize_prompt(*prompt))
        return self._recent_prompts.get(question.cache_salt, question.text.size, *prompt)

    def _tokenize_prompt(self, text: QuestionText, num_images: int, num_videos: int) -> Sequence[int]:
        if text.turns is not None:
            return self.prompt_tokenizer.encode_history(text.turns)
        return self.prompt_tokenizer.encode(text.text, num_images=num_images, num_videos=num_videos)

    def _pruner(self, spec: EncodeSpec, encoder: EncoderInfo) -> str:
        return spec.pruner or self._settings.pruner or encoder.default_pruner

    def _with_defaults(self, question: Question, encoder: EncoderInfo) -> EncodeSpec:
        """The encode call with its text, and with the defaults of this gateway, else of the encoder service."""
        spec = question.encode
        pruner, budget, wire_dtype = self._pruner(spec, encoder), spec.budget, spec.wire_dtype
        # With max_wire_bytes the encoder chooses the budget and the wire format that the request leaves open.
        if spec.max_wire_bytes is None:
            budget = budget or Budget.ratio(self._settings.keep_ratio or encoder.default_keep_ratio)
            wire_dtype = wire_dtype or self._settings.wire_dtype or encoder.default_wire_dtype or None
        video_budget = (spec.video_budget or "per_frame") if spec.videos else None
        return replace(
            spec,
            text_ids=self._text_ids(question, pruner, encoder),
            pruner=pruner,
            budget=budget,
            wire_dtype=wire_dtype,
            image_fit=spec.image_fit or encoder.default_image_fit,
            video_budget=video_budget,
            cache_salt=question.cache_salt,
        )

    def _text_ids(self, question: Question, pruner: str | None, encoder: EncoderInfo) -> tuple[int, ...]:
        """Ids of the question for the encoder; empty for a pruner that reads no text."""
        # An unknown pruner counts as one that reads text. The encoder refuses the request and lists its pruners.
        if not next((offered.reads_text for offered in encoder.pruners if offered.name == pruner), True):
            return ()
        text = question.text
        for_encoder = text.text, text.turns is not None, encoder.reads_language_model_ids
        text_ids = self._recent_texts.get(question.cache_salt, len(text.text), *for_encoder)
        if len(text_ids) > _MAX_TEXT_IDS:
            raise InvalidRequest(
                f"the question is too long: its text has {len(text_ids):,} tokens for the encoder; up to"
                f" {_MAX_TEXT_IDS:,} are accepted",
                param="question",
            )
        return text_ids

    def _tokenize_text(self, text: str, is_of_history: bool, reads_language_model_ids: bool) -> Sequence[int]:
        plain = text if is_of_history else self.prompt_tokenizer.without_markers(text)
        if reads_language_model_ids:
            return self.prompt_tokenizer.encode_plain(plain)
        if self._text_tower_tokenizer is None:
            raise CheckpointMismatch(
                "the encoder service reads questions through a text tower, and this gateway was started without one"
            )
        return self._text_tower_tokenizer.encode(plain)


def _generate(question: Question, input_ids: tuple[int, ...], llm: LLMInfo) -> GenerateSpec:
    """The generate call of a question, with the defaults of the LLM service."""
    return GenerateSpec(
        input_ids=input_ids,
        sampling=question.sampling.resolved(llm.default_sampling, llm.sampling_parameters),
        llm_pruner=question.llm_pruner,
        top_logprobs=question.top_logprobs,
        cache_salt=question.cache_salt,
    )


def _is_storable(question: Question, generate: GenerateSpec) -> bool:
    """Whether the answer may be cached and shared. Log-probabilities are not stored."""
    return generate.sampling.is_deterministic and question.cache != "bypass" and generate.top_logprobs is None
