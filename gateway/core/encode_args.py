"""Arguments and cache key of the encode call of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.cache.keys import EncodeKey
from gateway.clients.encoder import EncodeArgs, EncoderInfo, VideoArgs
from gateway.http.schemas.answer import QuestionRequest
from gateway.media.files import Video
from gateway.media.loader import Media
from gateway.settings import GatewaySettings

__all__ = ["EncodeDefaults", "EncodeOptions", "build_encode_args", "build_encode_key"]


@dataclass(frozen=True)
class EncodeDefaults:
    """Values for requests that set none: the gateway's settings, else the encoder's defaults."""

    keep_ratio: float
    wire_dtype: str

    @classmethod
    def of(cls, settings: GatewaySettings, encoder: EncoderInfo) -> EncodeDefaults:
        """The defaults of this gateway in front of this encoder."""
        return cls(
            keep_ratio=settings.keep_ratio or encoder.default_keep_ratio,
            wire_dtype=settings.wire_dtype or encoder.default_wire_dtype,
        )


@dataclass(frozen=True)
class EncodeOptions:
    """Options of an encode call that differ between answers, explanations and activation maps.

    Attributes:
        pruner: Name of the pruner.
        pruner_params: Parameters of the pruner by name.
        keep_tokens: Budget as a count, or `auto`; None if not set.
        wire_dtype: Wire format; None for the default.
        max_wire_bytes: Most bytes of visual tokens; None for no limit.
        explain: Whether score maps are returned.
    """

    pruner: str
    pruner_params: Mapping[str, Any]
    keep_tokens: int | Literal["auto"] | None
    wire_dtype: str | None = None
    max_wire_bytes: int | None = None
    explain: bool = True


def build_encode_args(
    request: QuestionRequest,
    media: Media,
    options: EncodeOptions,
    defaults: EncodeDefaults,
    *,
    text_ids: list[int],
    media_order: list[int],
) -> EncodeArgs:
    """Arguments of the encode call, with all defaults resolved.

    Args:
        request: The request, for its `keep_ratio` and its fields about videos.
        media: Images and videos of the request.
        options: Options of this call.
        defaults: Values for what neither `request` nor `options` sets.
        text_ids: Ids of the question; empty for pruners that read no text.
        media_order: Order of the media in the prompt, see `PromptTokenizer.media_order`.
    """
    keep_ratio, wire_dtype = request.keep_ratio, options.wire_dtype
    # With max_wire_bytes the encoder chooses the budget and the wire format that the request leaves open.
    if options.max_wire_bytes is None:
        wire_dtype = wire_dtype or defaults.wire_dtype
        if options.keep_tokens is None and keep_ratio is None:
            keep_ratio = defaults.keep_ratio
    return EncodeArgs(
        images=[image.data for image in media.images],
        text_ids=text_ids,
        pruner=options.pruner,
        pruner_params=options.pruner_params,
        keep_tokens=options.keep_tokens,
        keep_ratio=keep_ratio,
        wire_dtype=wire_dtype,
        max_wire_bytes=options.max_wire_bytes,
        explain=options.explain,
        videos=[_video_args(video, request) for video in media.videos],
        video_budget=(request.video_budget or "per_frame") if media.videos else None,
        media_order=media_order,
    )


def build_encode_key(args: EncodeArgs, media: Media, request: QuestionRequest, encoder: EncoderInfo) -> EncodeKey:
    """Everything that determines the result of the encode call, for its cache key."""
    return EncodeKey(
        image_sha256=[image.sha256 for image in media.images],
        text_ids=args.text_ids,
        pruner=args.pruner,
        pruner_params=args.pruner_params,
        keep_tokens=args.keep_tokens,
        keep_ratio=args.keep_ratio,
        wire_dtype=args.wire_dtype,
        max_wire_bytes=args.max_wire_bytes,
        explain=args.explain,
        fingerprints=encoder.fingerprints,
        videos=[_video_digests(video) for video in media.videos],
        num_frames=request.num_frames,
        seconds_per_frame=request.seconds_per_frame,
        video_budget=args.video_budget,
    )


def _video_args(video: Video, request: QuestionRequest) -> VideoArgs:
    if video.file is not None:
        return VideoArgs(video.file.data, num_frames=request.num_frames)
    return VideoArgs(frames=[frame.data for frame in video.frames], seconds_per_frame=request.seconds_per_frame)


def _video_digests(video: Video) -> list[str]:
    if video.file is not None:
        return ["file", video.file.sha256]
    return ["frames", *(frame.sha256 for frame in video.frames)]
