"""Limits of the served model on a question: images, videos, frames, pruners, sampling and the length of the prompt."""

from __future__ import annotations

import logging
from typing import Final

from fovea.budget import Budget
from fovea.errors import CheckpointMismatch, InvalidRequest, NotFound
from fovea.pruner_spec import NO_PRUNING
from fovea.sampling_ranges import TOP_LOGPROBS
from fovea.v1 import encoder_pb2, llm_pb2
from gateway.clients.encoder import EncodeResult, EncoderInfo
from gateway.clients.llm import LLMInfo
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import SAMPLING_PARAMETERS, GenerateSpec, LlmPruning, Sampling
from gateway.settings import GatewaySettings

__all__ = [
    "check_auto_budget",
    "check_context",
    "check_family",
    "check_llm_pruner",
    "check_media",
    "check_options",
    "check_prompt",
    "check_pruner",
    "check_sampling",
    "check_takes_budget",
    "check_top_logprobs",
    "warn_of_family_limits",
]

log = logging.getLogger(__name__)

_CACHE_SALT: Final = encoder_pb2.EncodeRequest.CACHE_SALT_FIELD_NUMBER
_NEWEST_OPTION: Final = max(field.number for field in encoder_pb2.EncodeRequest.DESCRIPTOR.fields)


def check_family(family: str, info: EncoderInfo | LLMInfo) -> None:
    """Checks that a service has a checkpoint of the gateway's family: another one has another chat template.

    Args:
        family: Family of the gateway's checkpoint.
        info: Info of the service.

    Raises:
        CheckpointMismatch: The checkpoint of the service is of another family.
    """
    if info.family != family:
        raise CheckpointMismatch(
            f"the gateway has a checkpoint of family {family}, and a service one of family {info.family:.80}; start all"
            " three with the same --model"
        )


def check_media(spec: EncodeSpec, encoder: EncoderInfo) -> None:
    """Checks the media against the limits of the served model.

    Raises:
        InvalidRequest: The model takes no videos, or fewer images, videos or frames.
    """
    num_images, num_videos = len(spec.images), len(spec.videos)
    if num_images > encoder.max_images:
        raise InvalidRequest(
            f"{num_images} images; family {encoder.family} takes up to {encoder.max_images} in one question",
            param="image",
        )
    if num_videos and not encoder.max_videos:
        raise InvalidRequest(f"family {encoder.family} takes no videos; images are accepted", param="video")
    if num_videos > encoder.max_videos:
        raise InvalidRequest(
            f"{num_videos} videos; family {encoder.family} takes up to {encoder.max_videos} in one question",
            param="video",
        )
    num_frames = max([spec.num_frames or 0, *(len(video.frames) for video in spec.videos)])
    if encoder.max_frames and num_frames > encoder.max_frames:
        raise InvalidRequest(
            f"{num_frames} frames of a video; family {encoder.family} takes up to {encoder.max_frames}",
            param="video" if spec.num_frames is None else "num_frames",
        )


def warn_of_family_limits(settings: GatewaySettings, encoder: EncoderInfo) -> None:
    """Logs a warning for each number of images or videos that is set above the limit of the model's family.

    A default above that limit is no warning: the one of videos is, for every family.
    """
    for name, value, limit in (
        ("images", settings.max_images, encoder.max_images),
        ("videos", settings.max_videos, encoder.max_videos),
    ):
        if value > limit and f"max_{name}" in settings.model_fields_set:
            log.warning(
                "--max-%s %d (GATEWAY_MAX_%s) is above the limit of family %s, which no setting raises: %s",
                *(name, value, name.upper(), encoder.family),
                f"it takes up to {limit} {name} in one question" if limit else f"it takes no {name}",
            )


def check_options(request: encoder_pb2.EncodeRequest, encoder: EncoderInfo) -> None:
    """Checks that the encoder service knows each field of the request message, nested messages aside.

    `cache_salt` is no option: results do not depend on it. A service that is older than it ignores it, and then caches
    features for all tenants together; see `EncoderInfo.salts_features`.

    Raises:
        InvalidRequest: The service is older than an option, which it would ignore.
    """
    if encoder.newest_request_field >= _NEWEST_OPTION:
        return
    for field, _ in request.ListFields():
        if field.number > encoder.newest_request_field and field.number != _CACHE_SALT:
            raise InvalidRequest(
                f"{field.name} is not accepted: the encoder service is older than this option; leave it out",
                param=field.name,
            )


def check_pruner(pruner: str, llm: LLMInfo) -> None:
    """Checks that the encoder's pruner is not one that works inside the language model.

    Raises:
        NotFound: The pruner works inside the language model.
    """
    if any(pruner == offered.name for offered in llm.pruners):
        raise NotFound(f"pruner {pruner!r} works inside the language model; name it in llm_pruner", param="pruner")


def check_auto_budget(spec: EncodeSpec, encoder: EncoderInfo) -> None:
    """Checks that a budget `auto` goes to a pruner that can choose its budget.

    Raises:
        InvalidRequest: The pruner cannot.
    """
    if spec.budget is None or not spec.budget.is_auto:
        return
    able = [offered.name for offered in encoder.pruners if offered.chooses_budget]
    if spec.pruner not in able:
        raise InvalidRequest(
            f"pruner {spec.pruner!r:.80} cannot choose its budget; give keep_tokens as a count or keep_ratio."
            f" {', '.join(able) or 'no pruner of this server'} can",
            param="keep_tokens",
        )


def check_takes_budget(pruner: str | None, budget: Budget | None) -> None:
    """Checks that the budget of a request does not go to the pruner that keeps all visual tokens.

    Args:
        pruner: Name of the pruner of the encoder service.
        budget: Budget that the request gave, without defaults; None for none.

    Raises:
        InvalidRequest: The pruner would ignore the budget.
    """
    if pruner != NO_PRUNING or budget is None or budget.keep_ratio == 1:
        return
    field = "keep_tokens" if budget.keep_ratio is None else "keep_ratio"
    raise InvalidRequest(
        f"pruner {pruner!r} keeps all visual tokens and takes no budget; leave {field} out, or name a pruner",
        param=field,
    )


def check_llm_pruner(llm_pruner: LlmPruning | None, llm: LLMInfo) -> None:
    """Checks that the engine of the LLM service has this pruner.

    Raises:
        InvalidRequest: The engine cannot prune inside the model.
        NotFound: There is no pruner of this name.
    """
    if llm_pruner is None:
        return
    names = [pruner.name for pruner in llm.pruners]
    if not names:
        raise InvalidRequest(
            "llm_pruner is not accepted: this model, or its engine, cannot prune inside the language model"
            " (--engine transformers of the LLM service can, in a Llama)",
            param="llm_pruner",
        )
    if llm_pruner.name not in names:
        raise NotFound(
            f"there is no llm_pruner {llm_pruner.name!r:.80}; accepted are {', '.join(names)}", param="llm_pruner"
        )


def check_sampling(sampling: Sampling, llm: LLMInfo) -> None:
    """Checks that the engine of the LLM service has the sampling parameters that are given.

    Raises:
        InvalidRequest: The engine does not have a parameter, and would ignore it.
    """
    lacking = sampling.lacking(llm.sampling_parameters)
    if lacking:
        accepted = [name for name in SAMPLING_PARAMETERS if name in llm.sampling_parameters]
        raise InvalidRequest(
            f"{lacking[0]} is not accepted: the engine of the LLM service does not have it; accepted are"
            f" {', '.join(accepted)}",
            param=lacking[0],
        )


def check_top_logprobs(top_logprobs: int | None, llm: LLMInfo) -> None:
    """Checks that the LLM service reports log-probabilities, and so many.

    Raises:
        InvalidRequest: The number is out of range, or the service is older than the option, which it would ignore.
    """
    if top_logprobs is None:
        return
    if not TOP_LOGPROBS.accepts(top_logprobs):
        raise InvalidRequest(f"top_logprobs must be {TOP_LOGPROBS}, not {top_logprobs}", param="top_logprobs")
    if llm.newest_request_field < llm_pb2.GenerateRequest.TOP_LOGPROBS_FIELD_NUMBER:
        raise InvalidRequest(
            "top_logprobs is not accepted: the LLM service is older than this option; leave it out",
            param="top_logprobs",
        )


def check_prompt(num_ids: int, llm: LLMInfo) -> None:
    """Checks the length of a prompt before its visual tokens are known.

    Raises:
        InvalidRequest: The prompt is too long even if it is pruned to one visual token for each image and video.
    """
    # Each image or video has one id here and at least one visual token later.
    subject = "the question is too long: with its prompt and one visual token for each image and video it has"
    _check_length(f"{subject} {num_ids} tokens", num_ids, llm)


def check_context(generate: GenerateSpec, encoded: EncodeResult, llm: LLMInfo) -> None:
    """Checks the length of a prompt with its visual tokens.

    Raises:
        InvalidRequest: The prompt leaves no room for one generated token.
    """
    prompt_tokens = len(generate.input_ids) - len(encoded.visual_tokens) + encoded.prompt_positions
    _check_length(f"the prompt has {prompt_tokens} tokens, visual tokens included", prompt_tokens, llm)


def _check_length(subject: str, num_tokens: int, llm: LLMInfo) -> None:
    """Refuses a prompt that leaves no room for one generated token."""
    excess = num_tokens + 1 - llm.max_model_len
    if excess > 0:
        raise InvalidRequest(
            f"{subject}; that is {excess} more than the model's context of {llm.max_model_len} leaves room for",
            param="question",
        )
