"""Client of the encoder service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from google.protobuf import struct_pb2

from fovea.errors import InternalError, ServiceError
from fovea.pruner_spec import PrunerSpec
from fovea.rpc.messages import parse
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, tensor_pb2
from fovea.wire.pruner_info import read_spec
from fovea.wire.tensors import DTYPES, dtype_name
from gateway.clients.base import INFO_TIMEOUT_S, ServiceClient
from gateway.clients.replies import RawReplies, has_visual_tokens

__all__ = ["EncodeArgs", "EncodeResult", "EncoderClient", "EncoderInfo", "Explanation", "VideoArgs"]

_VIDEO_BUDGETS: Final = {
    "per_frame": encoder_pb2.VIDEO_BUDGET_PER_FRAME,
    "whole": encoder_pb2.VIDEO_BUDGET_WHOLE,
}


@dataclass(frozen=True)
class EncoderInfo:
    """Info of the encoder service.

    Attributes:
        family: Model family, `model_type` of config.json.
        fingerprint: Fingerprint of the checkpoint.
        fingerprints: Fingerprints of everything that changes results: checkpoint, text tower and settings.
        max_images, max_videos: Maximum numbers of images and videos in a request.
        max_frames: Maximum number of frames in a video; 0 if unknown.
        reads_language_model_ids: Whether questions are ids of the language model's tokenizer, not of the text tower's.
        pruners: Pruners of the encoder service.
        default_pruner, default_keep_ratio, default_wire_dtype: Defaults of requests.
        wire_basis: Digest of the basis of the wire format `basis`; empty if there is none.
    """

    family: str
    fingerprint: str
    fingerprints: tuple[str, ...]
    max_images: int
    max_videos: int
    max_frames: int
    reads_language_model_ids: bool
    pruners: tuple[PrunerSpec, ...]
    default_pruner: str
    default_keep_ratio: float
    default_wire_dtype: str
    wire_basis: str = ""


@dataclass(frozen=True)
class VideoArgs:
    """Video of an encode call: a file, or a list of frames.

    Attributes:
        file: Encoded video file; None for frames.
        frames: Encoded images in temporal order.
        num_frames: Number of frames to sample from a file; None for the model's default.
        seconds_per_frame: Seconds from one of `frames` to the next; None if unknown.
    """

    file: bytes | None = None
    frames: Sequence[bytes] = ()
    num_frames: int | None = None
    seconds_per_frame: float | None = None

    def to_message(self) -> encoder_pb2.Video:
        """The protobuf message."""
        if self.file is not None:
            return encoder_pb2.Video(file=self.file, num_frames=self.num_frames or 0)
        frames = encoder_pb2.Frames(images=self.frames, seconds_per_frame=self.seconds_per_frame or 0.0)
        return encoder_pb2.Video(frames=frames)


@dataclass(frozen=True)
class EncodeArgs:
    """Arguments of one call to the encoder service, with all defaults resolved.

    Attributes:
        images: Encoded image files.
        text_ids: Ids of the question; empty for pruners that read no text.
        pruner: Name of the pruner.
        pruner_params: Parameters of the pruner by name.
        keep_tokens, keep_ratio: Budget of each image or video; at most one is set.
        wire_dtype: Wire format; None if the encoder service chooses a format that fits `max_wire_bytes`.
        explain: Whether score maps are returned.
        max_wire_bytes: Maximum number of bytes of all visual tokens; None for no limit.
        videos: Videos; their visual tokens follow those of the images.
        video_budget: `per_frame` or `whole`; None without videos.
        media_order: Order of the media in the prompt, see `PromptTokenizer.media_order`. None for images first, then
            videos. It is not sent to the encoder service.
    """

    images: Sequence[bytes]
    text_ids: Sequence[int]
    pruner: str
    pruner_params: Mapping[str, Any]
    keep_tokens: int | Literal["auto"] | None
    keep_ratio: float | None
    wire_dtype: str | None
    explain: bool
    max_wire_bytes: int | None = None
    videos: Sequence[VideoArgs] = ()
    video_budget: str | None = None
    media_order: Sequence[int] | None = None

    @property
    def num_media(self) -> int:
        """Number of images and videos."""
        return len(self.images) + len(self.videos)

    def to_message(self) -> encoder_pb2.EncodeRequest:
        """The protobuf message."""
        params = struct_pb2.Struct()
        params.update(self.pruner_params)
        request = encoder_pb2.EncodeRequest(
            images=self.images,
            text_ids=self.text_ids,
            pruner=self.pruner,
            pruner_params=params,
            wire_dtype=DTYPES[self.wire_dtype] if self.wire_dtype else tensor_pb2.DTYPE_UNSPECIFIED,
            max_wire_bytes=self.max_wire_bytes or 0,
            explain=self.explain,
            videos=[video.to_message() for video in self.videos],
            video_budget=_VIDEO_BUDGETS[self.video_budget] if self.video_budget is not None else None,
        )
        if self.keep_tokens == "auto":
            request.keep_auto = True
        elif self.keep_tokens is not None:
            request.keep_tokens = self.keep_tokens
        elif self.keep_ratio is not None:
            request.keep_ratio = self.keep_ratio
        return request


@dataclass(frozen=True)
class Explanation:
    """Explanation of the pruning of one image or video.

    Attributes:
        is_video: Whether the explanation is of a video.
        grid: Frames, rows and columns of the patch grid.
        kept: Grid positions of the kept tokens.
        task_map, saliency_map: Score of each patch in raster order; empty if the pruner has no such score.
        merged_into: Index into `kept` for each patch in raster order, -1 for a dropped patch; empty if unknown.
    """

    is_video: bool
    grid: tuple[int, int, int]
    kept: list[int]
    task_map: list[float]
    saliency_map: list[float]
    merged_into: list[int]


class EncodeResult:
    """Result of an encode call: serialized visual tokens and their properties.

    Args:
        message: Reply of the encoder service.
        media_order: Order of the media in the prompt, see `EncodeArgs`.
    """

    def __init__(self, message: encoder_pb2.EncodeResponse, media_order: Sequence[int] | None = None) -> None:
        self._message = message
        self._media_order = range(len(message.visual_tokens)) if media_order is None else media_order

    @classmethod
    def from_bytes(cls, data: bytes, args: EncodeArgs) -> Self | None:
        """Inverse of `to_bytes`; None if `data` cannot be parsed or is not a result of `args`."""
        try:
            message = parse(encoder_pb2.EncodeResponse, data)
        except ServiceError:
            return None
        is_valid = has_visual_tokens(message, args.num_media, explain=args.explain)
        return cls(message, args.media_order) if is_valid else None

    def to_bytes(self) -> bytes:
        """Serialized form for a cache. Timing and cache report are left out, because they belong to one call."""
        message = encoder_pb2.EncodeResponse()
        message.CopyFrom(self._message)
        message.ClearField("timing")
        message.ClearField("features_cached")
        return bytes(message.SerializeToString())

    @property
    def visual_tokens(self) -> Sequence[Any]:
        """VisualTokens messages, one for each image or video, in prompt order."""
        return [self._message.visual_tokens[i] for i in self._media_order]

    @property
    def wire_bytes(self) -> int:
        """Serialized size of the visual tokens in bytes."""
        return sum(tokens.ByteSize() for tokens in self._message.visual_tokens)

    @property
    def wire_dtype(self) -> str:
        """Wire format of the visual tokens."""
        return dtype_name(self._message.visual_tokens[0].features.dtype)

    @property
    def num_tokens_total(self) -> int:
        """Number of visual tokens before pruning."""
        return sum(self._message.num_tokens_total)

    @property
    def num_tokens_kept(self) -> int:
        """Number of visual tokens after pruning."""
        return sum(len(tokens.positions) for tokens in self._message.visual_tokens)

    @property
    def prompt_positions(self) -> int:
        """Number of prompt positions of the media: kept tokens and the line-end tokens that the model adds."""
        return self.num_tokens_kept + sum(len(tokens.newline_after) for tokens in self._message.visual_tokens)

    @property
    def fingerprints(self) -> set[str]:
        """Fingerprints of the checkpoints that produced the tokens. There must be only one."""
        return {tokens.fingerprint for tokens in self._message.visual_tokens}

    @property
    def pruner(self) -> str:
        """Name of the pruner that ran."""
        return str(self._message.pruner)

    @property
    def features_cached(self) -> bool:
        """Whether the features of all images and videos came from the encoder's cache."""
        return bool(self._message.features_cached) and all(self._message.features_cached)

    @property
    def queue_ms(self) -> float:
        """Queue time in the encoder service, in milliseconds."""
        return float(self._message.timing.queue_ms)

    @property
    def explanations(self) -> list[Explanation]:
        """Explanations of the images, then of the videos; empty unless requested."""
        return [
            Explanation(
                is_video=tokens.kind == tensor_pb2.VISUAL_KIND_VIDEO,
                grid=(tokens.grid.frames, tokens.grid.rows, tokens.grid.columns),
                kept=list(tokens.positions),
                task_map=list(explanation.task_map),
                saliency_map=list(explanation.saliency_map),
                merged_into=list(explanation.merged_into),
            )
            for tokens, explanation in zip(self._message.visual_tokens, self._message.explanations, strict=True)
        ]


class EncoderClient(ServiceClient[EncoderInfo]):
    """Client of the encoder service."""

    name = "encoder service"
    service = "fovea.v1.EncoderService"

    @property
    def _stub(self) -> encoder_pb2_grpc.EncoderServiceStub:
        return encoder_pb2_grpc.EncoderServiceStub(RawReplies(self.connection.channel))

    async def fetch_info(self) -> EncoderInfo:
        request, kind = encoder_pb2.GetEncoderInfoRequest(), encoder_pb2.GetEncoderInfoResponse
        reply = await self.call(self._stub.GetModelInfo, request, kind, INFO_TIMEOUT_S)
        return EncoderInfo(
            family=reply.family,
            max_images=reply.max_images,
            max_videos=reply.max_videos,
            max_frames=reply.max_frames,
            reads_language_model_ids=reply.text_tokenizer == encoder_pb2.TEXT_TOKENIZER_LANGUAGE_MODEL,
            fingerprint=reply.fingerprint,
            fingerprints=(reply.fingerprint, reply.text_tower_fingerprint, reply.settings_fingerprint),
            pruners=tuple(read_spec(pruner, self.name) for pruner in reply.pruners),
            default_pruner=reply.default_pruner,
            default_keep_ratio=reply.default_keep_ratio,
            default_wire_dtype=dtype_name(reply.default_wire_dtype),
            wire_basis=reply.wire_basis,
        )

    async def encode(self, args: EncodeArgs, timeout_s: float) -> EncodeResult:
        """Visual tokens of images and videos.

        Raises:
            ServiceError: The encoder service refused the call, failed, or is unavailable.
        """
        reply = await self.call(self._stub.Encode, args.to_message(), encoder_pb2.EncodeResponse, timeout_s)
        if not has_visual_tokens(reply, args.num_media, explain=args.explain):
            raise InternalError("the encoder service answered without visual tokens for each image and video")
        return EncodeResult(reply, args.media_order)
