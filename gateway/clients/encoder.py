"""Client of the encoder service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

from fovea.errors import InternalError, ServiceError
from fovea.pruner_spec import PrunerSpec
from fovea.rpc.messages import parse
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, tensor_pb2
from fovea.wire.formats import dtype_name, format_of
from fovea.wire.image_fits import ImageFit, image_fit_of
from fovea.wire.pruner_info import read_specs
from gateway.clients.base import INFO_TIMEOUT_S, ServiceClient
from gateway.clients.replies import Box, RawReplies, box_of, has_visual_tokens
from gateway.core.encode_spec import EncodeSpec

__all__ = ["EncodeResult", "EncoderClient", "EncoderInfo", "Explanation"]


_UNREPORTED_NEWEST_FIELD: Final = 12
"""Newest request field of a service that does not report it."""


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
        default_pruner, default_keep_ratio, default_wire_dtype: Defaults of requests. The wire format is empty if this
            gateway does not know it.
        default_image_fit: Default of requests; None from a service that does not report one.
        newest_request_field: Highest number of a field of EncodeRequest that the service knows.
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
    default_image_fit: ImageFit | None
    newest_request_field: int
    wire_basis: str = ""

    @property
    def salts_features(self) -> bool:
        """Whether the service keeps the cached features of tenants apart. An older service shares them."""
        return self.newest_request_field >= encoder_pb2.EncodeRequest.CACHE_SALT_FIELD_NUMBER


@dataclass(frozen=True)
class Explanation:
    """Explanation of the pruning of one image or video.

    Attributes:
        is_video: Whether the explanation is of a video.
        grid: Frames, rows and columns of the patch grid.
        kept: Grid positions of the kept tokens.
        viewed: Left, top, right and bottom of the area that the grid covers, in units of the image's width and height;
            None from a service that does not tell.
        task_map, saliency_map: Score of each patch in raster order; empty if the pruner has no such score.
        merged_into: Index into `kept` for each patch in raster order, -1 for a dropped patch; empty if unknown.
    """

    is_video: bool
    grid: tuple[int, int, int]
    kept: list[int]
    viewed: Box | None
    task_map: list[float]
    saliency_map: list[float]
    merged_into: list[int]


class EncodeResult:
    """Result of an encode call: serialized visual tokens and their properties.

    Args:
        message: Reply of the encoder service.
        media_order: Index of each image or video of the prompt, in prompt order; None for images first, then videos.
    """

    def __init__(self, message: encoder_pb2.EncodeResponse, media_order: Sequence[int] | None = None) -> None:
        self._message = message
        self._media_order = range(len(message.visual_tokens)) if media_order is None else media_order

    @classmethod
    def empty(cls) -> Self:
        """The result for a question without media: no visual tokens."""
        return cls(encoder_pb2.EncodeResponse())

    @classmethod
    def from_bytes(cls, data: bytes, spec: EncodeSpec, media_order: Sequence[int] | None = None) -> Self | None:
        """Inverse of `to_bytes`; None if `data` cannot be parsed or is not a result of `spec`."""
        try:
            message = parse(encoder_pb2.EncodeResponse, data)
        except ServiceError:
            return None
        return cls(message, media_order) if _is_result_of(message, spec) else None

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

    def add_to(self, request: llm_pb2.GenerateRequest) -> None:
        """Adds the visual tokens to a request."""
        for tokens in self.visual_tokens:
            request.visual_tokens.add().CopyFrom(tokens)  # `extend` would serialize and parse them

    @cached_property  # protobuf writes a message to tell its size
    def wire_bytes(self) -> int:
        """Serialized size of the visual tokens in bytes."""
        return sum(tokens.ByteSize() for tokens in self._message.visual_tokens)

    @property
    def wire_dtype(self) -> str:
        """Wire format of the visual tokens; empty if there are none."""
        if not self._message.visual_tokens:
            return ""
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
    def viewed(self) -> list[Box]:
        """Area of each image or video that its tokens cover; empty from a service that does not tell."""
        return [box_of(box) for box in self._message.viewed]

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
        """Explanations of the images, then of the videos, of a call that asked for them; else empty."""
        if not self._message.explanations:
            return []
        viewed: Sequence[Box | None] = self.viewed or [None] * len(self._message.visual_tokens)
        return [
            Explanation(
                is_video=tokens.kind == tensor_pb2.VISUAL_KIND_VIDEO,
                grid=(tokens.grid.frames, tokens.grid.rows, tokens.grid.columns),
                kept=list(tokens.positions),
                viewed=box,
                task_map=list(explanation.task_map),
                saliency_map=list(explanation.saliency_map),
                merged_into=list(explanation.merged_into),
            )
            for tokens, explanation, box in zip(
                self._message.visual_tokens, self._message.explanations, viewed, strict=True
            )
        ]


def _is_result_of(reply: encoder_pb2.EncodeResponse, spec: EncodeSpec) -> bool:
    return has_visual_tokens(reply, num_images=len(spec.images), num_videos=len(spec.videos), explain=spec.explain)


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
        if not 0 < reply.default_keep_ratio <= 1:
            raise InternalError("the encoder service reports a default keep_ratio that is not accepted")
        wire_format = format_of(reply.default_wire_dtype)
        return EncoderInfo(
            family=reply.family,
            max_images=reply.max_images,
            max_videos=reply.max_videos,
            max_frames=reply.max_frames,
            reads_language_model_ids=reply.text_tokenizer == encoder_pb2.TEXT_TOKENIZER_LANGUAGE_MODEL,
            fingerprint=reply.fingerprint,
            fingerprints=(reply.fingerprint, reply.text_tower_fingerprint, reply.settings_fingerprint),
            pruners=read_specs(reply.pruners, self.name),
            default_pruner=reply.default_pruner,
            default_keep_ratio=reply.default_keep_ratio,
            default_wire_dtype=wire_format.name if wire_format is not None else "",
            default_image_fit=image_fit_of(reply.default_image_fit),
            newest_request_field=max(reply.newest_request_field, _UNREPORTED_NEWEST_FIELD),
            wire_basis=reply.wire_basis,
        )

    async def encode(
        self, spec: EncodeSpec, media_order: Sequence[int] | None, timeout_s: float, tried: Sequence[str] = ()
    ) -> EncodeResult:
        """Visual tokens of images and videos.

        Args:
            spec: The call, with all defaults filled in.
            media_order: See `EncodeResult`.
            timeout_s: Timeout of the call in seconds.
            tried: Ids of the replicas that have refused the request.

        Raises:
            ServiceError: The encoder service refused the call, failed, or is unavailable.
        """
        reply = await self.call(self._stub.Encode, spec.to_proto(), encoder_pb2.EncodeResponse, timeout_s, tried)
        if not _is_result_of(reply, spec):
            raise InternalError("the encoder service answered without visual tokens for each image and video")
        return EncodeResult(reply, media_order)
