"""Limits on text, images, videos and frames: those of this server and those of its model."""

from __future__ import annotations

from fovea.errors import InvalidRequest
from gateway.clients.encoder import EncoderInfo
from gateway.core.question import MediaInputs, Question
from gateway.http.schemas.answer import QuestionRequest
from gateway.http.schemas.explain import ExplainRequest
from gateway.media.files import top_level_field
from gateway.media.loader import Media
from gateway.settings import GatewaySettings

__all__ = ["check_explained", "check_family", "check_media_inputs", "check_text", "video_field"]


def check_text(question: Question, settings: GatewaySettings) -> None:
    """Checks the length of the question or chat history.

    Raises:
        InvalidRequest: The text is too long.
    """
    turns = [[part for part in turn.parts if isinstance(part, str)] for turn in question.turns or ()]
    subject = "question" if question.turns is None else "messages: the last user turn"
    size, limit = sum(map(len, turns[-1] if turns else [question.text])), settings.max_question_chars
    if size > limit:
        raise InvalidRequest(f"{subject} has {size:,} characters; 1 to {limit:,} are accepted", param=question.param)
    total = sum(len(text) for texts in turns for text in texts)
    if total > settings.max_messages_chars:
        raise InvalidRequest(
            f"messages have {total:,} characters; up to {settings.max_messages_chars:,} are accepted", param="messages"
        )


def check_media_inputs(request: QuestionRequest, media_inputs: MediaInputs, settings: GatewaySettings) -> None:
    """Checks the number of images, videos and frames before any is read, and that fields about videos have a video.

    Raises:
        InvalidRequest: There are too many, or a field about videos has no video that it applies to.
    """
    _check_video_fields(request, media_inputs)
    for files, noun, limit in (
        (media_inputs.images, "images", settings.max_images),
        (media_inputs.videos, "videos", settings.max_videos),
    ):
        if len(files) > limit:
            raise InvalidRequest(
                f"{len(files)} {noun}; up to {limit} are accepted", param=top_level_field(files[0].field_path)
            )
    num_frames = max([request.num_frames or 0, *(len(video.frames) for video in media_inputs.videos)])
    if num_frames > settings.max_video_frames:
        raise InvalidRequest(
            f"{num_frames} frames of a video; up to {settings.max_video_frames} are accepted",
            param="video" if request.num_frames is None else "num_frames",
        )


def _check_video_fields(request: QuestionRequest, media_inputs: MediaInputs) -> None:
    """Refuses a field about videos without a video that it applies to."""
    requirements = {
        "num_frames": any(video.file is not None for video in media_inputs.videos) or "a video file",
        "seconds_per_frame": any(video.frames for video in media_inputs.videos) or "a list of frames as video",
        "video_budget": bool(media_inputs.videos) or "a video",
    }
    for name, requirement in requirements.items():
        if getattr(request, name) is not None and requirement is not True:
            raise InvalidRequest(f"{name} goes with {requirement}; this request has none", param=name)


def check_explained(request: ExplainRequest, media_inputs: MediaInputs) -> None:
    """Checks that the explanation can be drawn.

    Raises:
        InvalidRequest: A drawing of videos, or activation maps of anything but one image.
    """
    if request.maps and (len(media_inputs.images) != 1 or media_inputs.videos):
        raise InvalidRequest(
            f"maps show one image; this request has {len(media_inputs.images)} images and"
            f" {len(media_inputs.videos)} videos",
            param="maps",
        )
    if request.format == "png" and media_inputs.videos:
        raise InvalidRequest("videos are not drawn; format json gives the numbers", param="format")


def check_family(request: QuestionRequest, media: Media, encoder: EncoderInfo) -> None:
    """Checks the media against the limits of the served model.

    Raises:
        InvalidRequest: The model takes no videos, or fewer images, videos or frames.
    """
    if len(media.images) > encoder.max_images:
        raise InvalidRequest(
            f"{len(media.images)} images; family {encoder.family} takes up to {encoder.max_images} in one question",
            param=media.field,
        )
    if media.videos and not encoder.max_videos:
        raise InvalidRequest(
            f"family {encoder.family} takes no videos; images are accepted, as image or images",
            param=video_field(media),
        )
    if len(media.videos) > encoder.max_videos:
        raise InvalidRequest(
            f"{len(media.videos)} videos; family {encoder.family} takes up to {encoder.max_videos} in one question",
            param=video_field(media),
        )
    num_frames = max([request.num_frames or 0, *(len(video.frames) for video in media.videos)])
    if encoder.max_frames and num_frames > encoder.max_frames:
        raise InvalidRequest(
            f"{num_frames} frames of a video; family {encoder.family} takes up to {encoder.max_frames}",
            param=video_field(media) if request.num_frames is None else "num_frames",
        )


def video_field(media: Media) -> str:
    """The request field that holds the videos."""
    return "messages" if media.field == "messages" else "video"
