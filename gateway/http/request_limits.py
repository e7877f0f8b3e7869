"""Limits of this server on a request, checked before any of its media are loaded."""

from __future__ import annotations

from typing import Final

from fovea.errors import InvalidRequest, NotFound
from gateway.core.question_text import QuestionText
from gateway.http.client_errors import top_level_field
from gateway.http.schemas.answer import AnswerRequest, QuestionRequest
from gateway.http.schemas.explain import ExplainRequest
from gateway.http.schemas.options import PruningOptions
from gateway.media.inputs import MediaInputs
from gateway.settings import GatewaySettings

__all__ = ["check_limits", "check_question"]


_VIDEO_FIELDS: Final = ("num_frames", "seconds_per_frame", "video_budget")


def check_limits(
    request: QuestionRequest, text: QuestionText, media_inputs: MediaInputs, settings: GatewaySettings
) -> float:
    """Checks a request against the limits of this server, and returns its timeout in seconds.

    Raises:
        NotFound: The request names a model that is not served.
        InvalidRequest: The request exceeds a limit.
    """
    if request.model not in (None, settings.model_name):
        raise NotFound(f"model {request.model!r:.80} is not served here; {settings.model_name!r} is", param="model")
    timeout_s = check_question(request, text, media_inputs, settings)
    if isinstance(request, ExplainRequest):
        _check_explained(request, media_inputs)
    if isinstance(request, AnswerRequest) and (request.sent_max_tokens or 0) > settings.max_tokens:
        raise InvalidRequest(
            f"max_tokens is {request.max_tokens}; 1 to {settings.max_tokens} are accepted", param="max_tokens"
        )
    return timeout_s


def check_question(
    options: PruningOptions, text: QuestionText, media_inputs: MediaInputs, settings: GatewaySettings
) -> float:
    """Checks text, media and options against the limits of this server that hold on every surface, and returns the
    timeout in seconds.

    Raises:
        InvalidRequest: A limit is exceeded.
    """
    _check_text(text, settings)
    _check_media_inputs(options, media_inputs, settings)
    timeout_s = options.timeout_s or settings.default_timeout_s
    if timeout_s > settings.max_timeout_s:
        raise InvalidRequest(
            f"timeout_s is {timeout_s:g}; up to {settings.max_timeout_s:g} is accepted", param="timeout_s"
        )
    return timeout_s


def _check_text(text: QuestionText, settings: GatewaySettings) -> None:
    """Checks the length of the question or chat history."""
    turns = [[part for part in turn.parts if isinstance(part, str)] for turn in text.turns or ()]
    param, subject = ("question", "question") if text.turns is None else ("messages", "messages: the last user turn")
    size, limit = sum(map(len, turns[-1] if turns else [text.text])), settings.max_question_chars
    if size > limit:
        raise InvalidRequest(f"{subject} has {size:,} characters; 1 to {limit:,} are accepted", param=param)
    total = sum(len(part) for parts in turns for part in parts)
    if total > settings.max_messages_chars:
        raise InvalidRequest(
            f"messages have {total:,} characters; up to {settings.max_messages_chars:,} are accepted", param="messages"
        )


def _check_media_inputs(options: PruningOptions, media_inputs: MediaInputs, settings: GatewaySettings) -> None:
    """Checks the number of images, videos and frames before any is read, and that fields about videos have a video."""
    _check_video_fields(options, media_inputs)
    for files, noun, limit in (
        (media_inputs.images, "images", settings.max_images),
        (media_inputs.videos, "videos", settings.max_videos),
    ):
        if len(files) > limit:
            raise InvalidRequest(
                f"{len(files)} {noun}; up to {limit} are accepted", param=top_level_field(files[0].field_path)
            )
    num_frames = max([options.num_frames or 0, *(len(video.frames) for video in media_inputs.videos)])
    if num_frames > settings.max_video_frames:
        raise InvalidRequest(
            f"{num_frames} frames of a video; up to {settings.max_video_frames} are accepted",
            param="video" if options.num_frames is None else "num_frames",
        )


def _check_video_fields(options: PruningOptions, media_inputs: MediaInputs) -> None:
    """Refuses a field about videos without a video that it applies to."""
    given = [name for name in _VIDEO_FIELDS if getattr(options, name, None) is not None]
    if not given:
        return
    requirements = {
        "num_frames": any(video.file is not None for video in media_inputs.videos) or "a video file",
        "seconds_per_frame": any(video.frames for video in media_inputs.videos) or "a list of frames as video",
        "video_budget": bool(media_inputs.videos) or "a video",
    }
    for name in given:
        if requirements[name] is not True:
            raise InvalidRequest(f"{name} goes with {requirements[name]}; this request has none", param=name)


def _check_explained(request: ExplainRequest, media_inputs: MediaInputs) -> None:
    """Checks that the explanation can be drawn."""
    if request.maps and (len(media_inputs.images) != 1 or media_inputs.videos):
        raise InvalidRequest(
            f"maps show one image; this request has {len(media_inputs.images)} images and"
            f" {len(media_inputs.videos)} videos",
            param="maps",
        )
    if request.format == "png" and media_inputs.videos:
        raise InvalidRequest("videos are not drawn; format json gives the numbers", param="format")
