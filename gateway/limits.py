"""How much text, how many pictures, videos and frames: what this server accepts, and what its model does."""

from __future__ import annotations

from fovea.errors import InvalidRequest
from gateway.clients.encoder import EncoderInfo
from gateway.media import top_level_field
from gateway.media_loader import Media
from gateway.question import MediaInputs, Question
from gateway.schemas.answer import QuestionRequest
from gateway.schemas.explain import ExplainRequest
from gateway.settings import GatewaySettings

__all__ = ["check_explained", "check_family", "check_media_inputs", "check_text", "video_field"]


def check_text(question: Question, settings: GatewaySettings) -> None:
    """Refuses too long a question or chat history.

    Raises:
        InvalidRequest: It is.
    """
    turns = [[part for part in turn.parts if isinstance(part, str)] for turn in question.turns or ()]
    what = "question" if question.turns is None else "messages: the last user turn"
    size, limit = sum(map(len, turns[-1] if turns else [question.text])), settings.max_question_chars
    if size > limit:
        raise InvalidRequest(f"{what} has {size:,} characters; 1 to {limit:,} are accepted", param=question.param)
    total = sum(len(text) for texts in turns for text in texts)
    if total > settings.max_messages_chars:
        raise InvalidRequest(
            f"messages have {total:,} characters; up to {settings.max_messages_chars:,} are accepted", param="messages"
        )


def check_media_inputs(request: QuestionRequest, sources: MediaInputs, settings: GatewaySettings) -> None:
    """Refuses too many files before any is read, and fields about a video that is not there.

    Raises:
        InvalidRequest: One of these.
    """
    _check_video_fields(request, sources)
    for files, noun, limit in (
        (sources.images, "pictures", settings.max_images),
        (sources.videos, "videos", settings.max_videos),
    ):
        if len(files) > limit:
            raise InvalidRequest(
                f"{len(files)} {noun}; up to {limit} are accepted", param=top_level_field(files[0].field_path)
            )
    num_frames = max([request.num_frames or 0, *(len(video.frames) for video in sources.videos)])
    if num_frames > settings.max_video_frames:
        raise InvalidRequest(
            f"{num_frames} frames of a video; up to {settings.max_video_frames} are accepted",
            param="video" if request.num_frames is None else "num_frames",
        )


def _check_video_fields(request: QuestionRequest, sources: MediaInputs) -> None:
    """Fields about videos say something about a video of this request."""
    needs = {
        "num_frames": any(video.file is not None for video in sources.videos) or "a video file",
        "seconds_per_frame": any(video.frames for video in sources.videos) or "a list of frames as video",
        "video_budget": bool(sources.videos) or "a video",
    }
    for name, needed in needs.items():
        if getattr(request, name) is not None and needed is not True:
            raise InvalidRequest(f"{name} goes with {needed}; this request has none", param=name)


def check_explained(request: ExplainRequest, sources: MediaInputs) -> None:
    """Refuses to draw videos, and maps of more than one picture.

    Raises:
        InvalidRequest: One of these.
    """
    if request.maps and (len(sources.images) != 1 or sources.videos):
        raise InvalidRequest(
            f"maps show one picture; this request has {len(sources.images)} pictures and {len(sources.videos)} videos",
            param="maps",
        )
    if request.format == "png" and sources.videos:
        raise InvalidRequest("videos are not drawn; format json gives the numbers", param="format")


def check_family(request: QuestionRequest, media: Media, encoder: EncoderInfo) -> None:
    """Refuses what the served model does not take.

    Raises:
        InvalidRequest: Videos where it takes none, or too many pictures, videos or frames.
    """
    if len(media.images) > encoder.max_images:
        raise InvalidRequest(
            f"{len(media.images)} pictures; family {encoder.family} takes up to {encoder.max_images} in one question",
            param=media.field,
        )
    if media.videos and not encoder.max_videos:
        raise InvalidRequest(
            f"family {encoder.family} takes no videos; pictures are accepted, as image or images",
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
    """The request field where videos stand."""
    return "messages" if media.field == "messages" else "video"
