"""The call to the encoder service that a request amounts to, and its cache key."""

from __future__ import annotations

from gateway.cache.keys import EncodeKey
from gateway.clients.encoder import EncodeArgs, EncoderInfo, VideoArgs
from gateway.media import Video
from gateway.media_loader import Media
from gateway.schemas.answer import QuestionRequest
from gateway.settings import GatewaySettings

__all__ = ["build_encode_args", "build_encode_key"]


def build_encode_args(
    request: QuestionRequest,
    media: Media,
    encoder: EncoderInfo,
    settings: GatewaySettings,
    *,
    pruner: str,
    text_ids: list[int],
    order: list[int],
    wire_dtype: str | None,
    max_wire_bytes: int | None,
    explain: bool,
) -> EncodeArgs:
    """The call, with the defaults of this server and of the encoder.

    Args:
        request: Budget and parameters.
        media: Its pictures and videos.
        encoder: Whose defaults count last.
        settings: Whose defaults count first.
        pruner: By name.
        text_ids: The question for the encoder; empty where the pruner does not read it.
        order: Of pictures and videos in the prompt.
        wire_dtype, max_wire_bytes: As the request has them.
        explain: Whether the maps are wanted.
    """
    keep_ratio = request.keep_ratio
    # A budget of bytes leaves what has no default to the encoder: how many tokens, and in which dtype.
    if max_wire_bytes is None:
        wire_dtype = wire_dtype or settings.wire_dtype or encoder.default_wire_dtype
        if request.keep_tokens is None and keep_ratio is None:
            keep_ratio = settings.keep_ratio or encoder.default_keep_ratio
    return EncodeArgs(
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
        order=order,
    )


def build_encode_key(encode: EncodeArgs, media: Media, request: QuestionRequest, encoder: EncoderInfo) -> EncodeKey:
    """What a cached output of `encode` must agree in."""
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


def _video_call(video: Video, request: QuestionRequest) -> VideoArgs:
    if video.file is not None:
        return VideoArgs(video.file.data, num_frames=request.num_frames)
    return VideoArgs(frames=[frame.data for frame in video.frames], seconds_per_frame=request.seconds_per_frame)


def _digests(video: Video) -> list[str]:
    if video.file is not None:
        return ["file", video.file.sha256]
    return ["frames", *(frame.sha256 for frame in video.frames)]
