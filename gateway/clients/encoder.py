"""The encoder service's client and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from google.protobuf import struct_pb2

from fovea.errors import InternalError, ServiceError
from fovea.rpc.messages import parse
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, tensor_pb2
from fovea.wire.tensors import DTYPES, dtype_name
from gateway.clients.base import INFO_TIMEOUT_S, ServiceClient
from gateway.clients.pruner_info import PrunerInfo
from gateway.clients.replies import RawReplies, has_visual_tokens

__all__ = ["EncodeArgs", "EncodeResult", "EncoderClient", "EncoderInfo", "Explanation", "VideoArgs"]

_VIDEO_BUDGETS: Final = {
    "per_frame": encoder_pb2.VIDEO_BUDGET_PER_FRAME,
    "whole": encoder_pb2.VIDEO_BUDGET_WHOLE,
}


@dataclass(frozen=True)
class EncoderInfo:
    """What the encoder service says of itself."""

    family: str
    fingerprint: str
    fingerprints: tuple[str, ...]  # of all that changes its results
    max_images: int
    max_videos: int
    max_frames: int  # of one video; 0: it does not say
    reads_language_model_ids: bool  # questions come as ids of the checkpoint's own tokenizer, not the text tower's
    pruners: tuple[PrunerInfo, ...]
    default_pruner: str
    default_keep_ratio: float
    default_wire_dtype: str
    wire_basis: str = ""  # digest of the one that it writes in; empty: none


@dataclass(frozen=True)
class VideoArgs:
    """A video: a file, or frames that were sampled already.

    Attributes:
        file: None where there are frames.
        frames: EncodeResult pictures in the order of time.
        num_frames: To sample from a file; None: the model's own number.
        seconds_per_frame: From one of `frames` to the next; None: unknown.
    """

    file: bytes | None = None
    frames: Sequence[bytes] = ()
    num_frames: int | None = None
    seconds_per_frame: float | None = None

    def to_message(self) -> encoder_pb2.Video:
        """The video on the wire."""
        if self.file is not None:
            return encoder_pb2.Video(file=self.file, num_frames=self.num_frames or 0)
        frames = encoder_pb2.Frames(images=self.frames, seconds_per_frame=self.seconds_per_frame or 0.0)
        return encoder_pb2.Video(frames=frames)


@dataclass(frozen=True)
class EncodeArgs:
    """Arguments of one call to the encoder service; all defaults resolved.

    `order` is not sent: it says in which order the prompt reads the visual tokens that come back (those of the images,
    then those of the videos); left out: in that one.
    """

    images: Sequence[bytes]
    text_ids: Sequence[int]
    pruner: str
    pruner_params: Mapping[str, Any]
    keep_tokens: int | Literal["auto"] | None
    keep_ratio: float | None
    wire_dtype: str | None  # None: the encoder chooses what fits max_wire_bytes
    explain: bool
    max_wire_bytes: int | None = None
    videos: Sequence[VideoArgs] = ()
    video_budget: str | None = None
    order: Sequence[int] | None = None

    @property
    def num_media(self) -> int:
        """Pictures and videos."""
        return len(self.images) + len(self.videos)

    def to_message(self) -> encoder_pb2.EncodeRequest:
        """The request on the wire."""
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
    """Why tokens of one picture or video were kept; maps are flat, in raster order, empty where the pruner has none."""

    is_video: bool
    grid: tuple[int, int, int]  # frames, rows, columns
    kept: list[int]
    task_map: list[float]
    saliency_map: list[float]
    merged_into: list[int]


class EncodeResult:
    """The encoder's output for one request: visual tokens, opaque, and what is said about them.

    Args:
        message: As the encoder answered.
        order: See `EncodeArgs`.
    """

    def __init__(self, message: encoder_pb2.EncodeResponse, order: Sequence[int] | None = None) -> None:
        self._message = message
        self._order = range(len(message.visual_tokens)) if order is None else order

    @classmethod
    def from_bytes(cls, data: bytes, call: EncodeArgs) -> Self | None:
        """What `to_bytes` wrote; None if it cannot be read, or is no answer to `call`."""
        try:
            message = parse(encoder_pb2.EncodeResponse, data)
        except ServiceError:
            return None
        sound = has_visual_tokens(message, call.num_media, explain=call.explain)
        return cls(message, call.order) if sound else None

    def to_bytes(self) -> bytes:
        """For a cache: without the timing, which belongs to one call."""
        kept = encoder_pb2.EncodeResponse()
        kept.CopyFrom(self._message)
        kept.ClearField("timing")
        kept.ClearField("features_cached")
        return bytes(kept.SerializeToString())

    @property
    def visual_tokens(self) -> Sequence[Any]:
        """VisualTokens messages, one per picture or video, in the order in which the prompt reads them."""
        return [self._message.visual_tokens[i] for i in self._order]

    @property
    def wire_bytes(self) -> int:
        """Serialized size of the visual tokens."""
        return sum(tokens.ByteSize() for tokens in self._message.visual_tokens)

    @property
    def wire_dtype(self) -> str:
        """In which the visual tokens travel."""
        return dtype_name(self._message.visual_tokens[0].features.dtype)

    @property
    def num_tokens_total(self) -> int:
        """Visual tokens before pruning."""
        return sum(self._message.num_tokens_total)

    @property
    def num_tokens_kept(self) -> int:
        """Visual tokens after pruning."""
        return sum(len(tokens.positions) for tokens in self._message.visual_tokens)

    @property
    def prompt_positions(self) -> int:
        """Positions of the prompt that they take: the kept tokens, and the model's own tokens for ends of lines."""
        return self.num_tokens_kept + sum(len(tokens.newline_after) for tokens in self._message.visual_tokens)

    @property
    def fingerprints(self) -> set[str]:
        """Of the checkpoints that made the tokens; one, unless something is wrong."""
        return {tokens.fingerprint for tokens in self._message.visual_tokens}

    @property
    def pruner(self) -> str:
        """The pruner that ran."""
        return str(self._message.pruner)

    @property
    def features_cached(self) -> bool:
        """The vision tower did not run for any of the pictures and videos."""
        return bool(self._message.features_cached) and all(self._message.features_cached)

    @property
    def queue_ms(self) -> float:
        """Wait for a place in a batch of the encoder."""
        return float(self._message.timing.queue_ms)

    @property
    def explanations(self) -> list[Explanation]:
        """One per picture, then one per video; empty unless asked for."""
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
    """The encoder service."""

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
            pruners=tuple(PrunerInfo.of(pruner, self.name) for pruner in reply.pruners),
            default_pruner=reply.default_pruner,
            default_keep_ratio=reply.default_keep_ratio,
            default_wire_dtype=dtype_name(reply.default_wire_dtype),
            wire_basis=reply.wire_basis,
        )

    async def encode(self, call: EncodeArgs, timeout_s: float) -> EncodeResult:
        """Visual tokens of the pictures and videos.

        Raises:
            ServiceError: The encoder refused, failed, or is away.
        """
        reply = await self.call(self._stub.Encode, call.to_message(), encoder_pb2.EncodeResponse, timeout_s)
        if not has_visual_tokens(reply, call.num_media, explain=call.explain):
            raise InternalError("the encoder service answered without visual tokens for each picture")
        return EncodeResult(reply, call.order)
