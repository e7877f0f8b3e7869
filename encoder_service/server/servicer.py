"""gRPC methods of the encoder service: from a message to a request, to the batcher, and back to a message."""

from __future__ import annotations

import grpc.aio

from encoder_service.engine.batching import Batcher
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.engine import EncodeRequest, PreparedRequest
from encoder_service.models.base import EncoderModel
from encoder_service.server.requests import read_request
from encoder_service.server.responses import WireChoice, describe, write_response
from encoder_service.settings import EncoderSettings
from fovea.errors import Unavailable
from fovea.v1 import encoder_pb2, encoder_pb2_grpc
from fovea.wire.basis import WireBasis
from fovea.wire.formats import WIRE_FORMATS

__all__ = ["EncoderBatcher", "EncoderServicer"]

EncoderBatcher = Batcher[EncodeRequest, PreparedRequest, tuple[EncodedMedia, ...]]


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Methods of the service. They answer UNAVAILABLE until `attach`: the port opens before the model is loaded."""

    def __init__(self, settings: EncoderSettings) -> None:
        self._settings = settings
        self._attached: tuple[EncoderModel, EncoderBatcher] | None = None
        self._basis: WireBasis | None = None

    def attach(self, model: EncoderModel, batcher: EncoderBatcher, basis: WireBasis | None = None) -> None:
        """Makes the methods answer with a loaded model."""
        self._basis = basis
        self._attached = (model, batcher)

    def _loaded(self) -> tuple[EncoderModel, EncoderBatcher]:
        if self._attached is None:
            raise Unavailable("the encoder service is loading its model", retry_after_s=2.0)
        return self._attached

    async def Encode(  # noqa: N802
        self, request: encoder_pb2.EncodeRequest, context: grpc.aio.ServicerContext
    ) -> encoder_pb2.EncodeResponse:
        model, batcher = self._loaded()
        wire = WireChoice(request.wire_dtype, request.max_wire_bytes, self._basis)
        if not wire.max_bytes:
            wire = WireChoice(request.wire_dtype or WIRE_FORMATS[self._settings.wire_dtype].dtype, basis=self._basis)
        encode_request = read_request(request, model, self._settings, self._basis)
        result = await batcher.submit(encode_request, timeout_s=self._time_left(context))
        return write_response(result, encode_request.pruner.name, model.fingerprint, wire, explain=request.explain)

    async def GetModelInfo(  # noqa: N802
        self, request: encoder_pb2.GetEncoderInfoRequest, context: grpc.aio.ServicerContext
    ) -> encoder_pb2.GetEncoderInfoResponse:
        model, _ = self._loaded()
        return describe(model, self._settings, self._basis)

    def _time_left(self, context: grpc.aio.ServicerContext) -> float:
        remaining = context.time_remaining()
        return self._settings.default_timeout_s if remaining is None else float(remaining)
