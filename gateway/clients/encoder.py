"""The encoder service's client and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError

from fovea.errors import InternalError
from fovea.tensors import DTYPES, dtype_name
from fovea.v1 import encoder_pb2, encoder_pb2_grpc
from gateway.clients.base import INFO_TIMEOUT_S, ServiceClient
from gateway.clients.pruner_info import PrunerInfo

__all__ = ["EncodeCall", "Encoded", "EncoderClient", "EncoderInfo", "Explanation"]


@dataclass(frozen=True)
class EncoderInfo:
    """What the encoder service says of itself."""

    fingerprint: str
    fingerprints: tuple[str, ...]  # of all that changes its results
    pruners: tuple[PrunerInfo, ...]
    default_pruner: str
    default_keep_ratio: float
    default_wire_dtype: str


@dataclass(frozen=True)
class EncodeCall:
    """Arguments of one call to the encoder service; all defaults resolved."""

    images: Sequence[bytes]
    text_ids: Sequence[int]
    pruner: str
    pruner_params: Mapping[str, Any]
    keep_tokens: int | None
    keep_ratio: float | None
    wire_dtype: str
    explain: bool

    def to_message(self) -> encoder_pb2.EncodeRequest:
        """The request on the wire."""
        params = struct_pb2.Struct()
        params.update(self.pruner_params)
        request = encoder_pb2.EncodeRequest(
            images=self.images,
            text_ids=self.text_ids,
            pruner=self.pruner,
            pruner_params=params,
            wire_dtype=DTYPES[self.wire_dtype],
            explain=self.explain,
        )
        if self.keep_tokens is not None:
            request.keep_tokens = self.keep_tokens
        elif self.keep_ratio is not None:
            request.keep_ratio = self.keep_ratio
        return request


@dataclass(frozen=True)
class Explanation:
    """Why tokens of one picture were kept; maps are flat, in raster order, empty where the pruner has none."""

    grid: tuple[int, int]
    kept: list[int]
    task_map: list[float]
    saliency_map: list[float]
    merged_into: list[int]


class Encoded:
    """The encoder's output for one request: visual tokens, opaque, and what is said about them."""

    def __init__(self, message: encoder_pb2.EncodeResponse) -> None:
        self._message = message

    @classmethod
    def from_bytes(cls, data: bytes, call: EncodeCall) -> Self | None:
        """What `to_bytes` wrote; None if it cannot be read, or is no answer to `call`."""
        try:
            message = encoder_pb2.EncodeResponse.FromString(data)
        except DecodeError:
            return None
        return cls(message) if _answers(message, call) else None

    def to_bytes(self) -> bytes:
        """For a cache: without the timing, which belongs to one call."""
        kept = encoder_pb2.EncodeResponse()
        kept.CopyFrom(self._message)
        kept.ClearField("timing")
        kept.ClearField("features_cached")
        return bytes(kept.SerializeToString())

    @property
    def visual_tokens(self) -> Sequence[Any]:
        """VisualTokens messages, one per picture."""
        return list(self._message.visual_tokens)

    @property
    def wire_bytes(self) -> int:
        """Serialized size of the visual tokens."""
        return sum(tokens.ByteSize() for tokens in self._message.visual_tokens)

    @property
    def num_tokens_total(self) -> int:
        """Visual tokens before pruning."""
        return sum(self._message.num_tokens_total)

    @property
    def num_tokens_kept(self) -> int:
        """Visual tokens after pruning."""
        return sum(len(tokens.positions) for tokens in self._message.visual_tokens)

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
        """The vision tower did not run for any of the pictures."""
        return bool(self._message.features_cached) and all(self._message.features_cached)

    @property
    def queue_ms(self) -> float:
        """Wait for a place in a batch of the encoder."""
        return float(self._message.timing.queue_ms)

    @property
    def explanations(self) -> list[Explanation]:
        """One per picture; empty unless asked for."""
        return [
            Explanation(
                grid=(tokens.grid.rows, tokens.grid.columns),
                kept=list(tokens.positions),
                task_map=list(explanation.task_map),
                saliency_map=list(explanation.saliency_map),
                merged_into=list(explanation.merged_into),
            )
            for tokens, explanation in zip(self._message.visual_tokens, self._message.explanations, strict=True)
        ]


def _answers(message: encoder_pb2.EncodeResponse, call: EncodeCall) -> bool:
    """Whether there are visual tokens, each with its position, for every picture; and explanations if asked for."""
    count = len(call.images)
    return (
        len(message.visual_tokens) == len(message.num_tokens_total) == count
        and all(
            tokens.positions and tokens.features.shape[:1] == [len(tokens.positions)]
            for tokens in message.visual_tokens
        )
        and (not call.explain or len(message.explanations) == count)
    )


class EncoderClient(ServiceClient[EncoderInfo]):
    """The encoder service."""

    name = "encoder service"
    service = "fovea.v1.EncoderService"

    @property
    def _stub(self) -> encoder_pb2_grpc.EncoderServiceStub:
        return encoder_pb2_grpc.EncoderServiceStub(self.connection.channel)

    async def fetch_info(self) -> EncoderInfo:
        reply = await self.call(self._stub.GetModelInfo, encoder_pb2.GetEncoderInfoRequest(), INFO_TIMEOUT_S)
        return EncoderInfo(
            fingerprint=reply.fingerprint,
            fingerprints=(reply.fingerprint, reply.text_tower_fingerprint, reply.settings_fingerprint),
            pruners=tuple(PrunerInfo.of(pruner) for pruner in reply.pruners),
            default_pruner=reply.default_pruner,
            default_keep_ratio=reply.default_keep_ratio,
            default_wire_dtype=dtype_name(reply.default_wire_dtype),
        )

    async def encode(self, call: EncodeCall, timeout_s: float) -> Encoded:
        """Visual tokens of the pictures.

        Raises:
            ServiceError: The encoder refused, failed, or is away.
        """
        reply = await self.call(self._stub.Encode, call.to_message(), timeout_s)
        if not _answers(reply, call):
            raise InternalError("the encoder service answered without visual tokens for each picture")
        return Encoded(reply)
