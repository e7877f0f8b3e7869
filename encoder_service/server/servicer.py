"""gRPC methods of the encoder service: from a message to a request, to the batcher, and back to a message."""

from __future__ import annotations

import time
from typing import ClassVar

import grpc.aio

from encoder_service.server.requests import read_request
from encoder_service.server.responses import WireChoice, describe, write_response
from encoder_service.server.served_model import ServedModel
from encoder_service.settings import EncoderSettings
from fovea import tracing
from fovea.rpc.server import GrpcServer
from fovea.service import Servicer
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, tensor_pb2
from fovea.wire.formats import WIRE_FORMATS

__all__ = ["EncoderServicer"]


class EncoderServicer(Servicer[ServedModel], encoder_pb2_grpc.EncoderServiceServicer):
    """Methods of the service, see `fovea.service.Servicer`."""

    SERVICE: ClassVar[str] = "fovea.v1.EncoderService"
    NAME: ClassVar[str] = "encoder service"
    LOADING_RETRY_S: ClassVar[float] = 2.0

    def __init__(self, settings: EncoderSettings, server: GrpcServer) -> None:
        super().__init__(settings, server)
        self._settings = settings
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self, server.grpc)

    async def Encode(  # noqa: N802
        self, request: encoder_pb2.EncodeRequest, context: grpc.aio.ServicerContext
    ) -> encoder_pb2.EncodeResponse:
        served = self._model
        default = (
            tensor_pb2.DTYPE_UNSPECIFIED if request.max_wire_bytes else WIRE_FORMATS[self._settings.wire_dtype].dtype
        )
        wire = WireChoice(request.wire_dtype or default, request.max_wire_bytes, served.basis)
        encode_request = read_request(request, served.model, self._settings, served.basis, served.pruning)
        encoded, timing = await served.batcher.submit(encode_request, timeout_s=self._time_left(context))
        before = {"preprocessing": timing.prepare_ms / 1000, "queue": timing.queue_ms / 1000}
        tracing.record(tracing.current(), before, ended_at=time.perf_counter() - timing.run_ms / 1000)
        return write_response(
            encoded, timing, encode_request.pruner.name, served.model.fingerprint, wire, explain=request.explain
        )

    async def GetModelInfo(  # noqa: N802
        self, request: encoder_pb2.GetEncoderInfoRequest, context: grpc.aio.ServicerContext
    ) -> encoder_pb2.GetEncoderInfoResponse:
        served = self._model
        return describe(served.model, self._settings, served.basis, served.pruning)

    def _time_left(self, context: grpc.aio.ServicerContext) -> float:
        remaining = context.time_remaining()
        return self._settings.default_timeout_s if remaining is None else float(remaining)
