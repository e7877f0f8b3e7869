"""Scripted encoder and LLM services: real gRPC, small answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from fovea.errors import ServiceError
from fovea.server import GrpcServer
from fovea.tensors import to_message
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc, tensor_pb2

GRID = (2, 3)
CHANNELS = 8


class Gate:
    """Lets calls through at once, or holds them until it is opened."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.reached = asyncio.Event()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._open.wait()


class ScriptedEncoder(encoder_pb2_grpc.EncoderServiceServicer):
    """Keeps the first half of the patches; features depend on the picture and the text."""

    def __init__(self) -> None:
        self.calls: list[encoder_pb2.EncodeRequest] = []
        self.info_calls = 0
        self.info_gate = Gate()
        self.info_error: ServiceError | None = None
        self.metadata: list[dict[str, Any]] = []
        self.gate = Gate()
        self.cancelled = asyncio.Event()
        self.error: ServiceError | None = None
        self.reply: encoder_pb2.EncodeResponse | None = None
        self.info = encoder_pb2.GetEncoderInfoResponse(
            model="tiny",
            family="llava",
            fingerprint="aaaa",
            text_tower_fingerprint="cccc",
            settings_fingerprint="eeee",
            grid=tensor_pb2.Grid(frames=1, rows=GRID[0], columns=GRID[1]),
            hidden_size=CHANNELS,
            default_pruner="desap",
            default_keep_ratio=0.5,
            default_wire_dtype=tensor_pb2.DTYPE_FLOAT16,
            max_text_ids=77,
            max_images=1,
        )
        self.info.pruners.add(name="none", side="encoder", summary="keeps all", reads_text=False)
        desap = self.info.pruners.add(
            name="desap", side="encoder", summary="task and saliency", reference="DeSAP", reads_text=True
        )
        desap.parameters.add(name="beta", description="0 to 1").default.number_value = 0.5

    async def GetModelInfo(  # noqa: N802
        self, request: Any, context: Any
    ) -> encoder_pb2.GetEncoderInfoResponse:
        self.info_calls += 1
        await self.info_gate.pass_through()
        if self.info_error is not None:
            raise self.info_error
        return self.info

    async def Encode(  # noqa: N802
        self, request: Any, context: Any
    ) -> encoder_pb2.EncodeResponse:
        self.calls.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            await self.gate.pass_through()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        if self.reply is not None:
            return self.reply
        return self._encode(request)

    def _encode(self, request: Any) -> encoder_pb2.EncodeResponse:
        total = GRID[0] * GRID[1]
        kept = list(range(total if request.pruner == "none" else total // 2))
        digest = hashlib.sha256(request.images[0] + str(list(request.text_ids)).encode()).digest()
        features = np.frombuffer(digest * len(kept), np.uint8)[: len(kept) * CHANNELS].astype(np.float32)
        response = encoder_pb2.EncodeResponse(
            pruner=request.pruner,
            num_tokens_total=[total],
            features_cached=[False],
            timing=encoder_pb2.EncodeTiming(queue_ms=1.5),
        )
        response.visual_tokens.add(
            features=to_message(features.reshape(len(kept), CHANNELS), request.wire_dtype),
            positions=kept,
            grid=self.info.grid,
            fingerprint=self.info.fingerprint,
        )
        if request.explain:
            response.explanations.add(
                task_map=[0.5] * total, saliency_map=[0.25] * total, merged_into=[0, 1, 2, 0, 1, -1]
            )
        return response


class ScriptedLLM(llm_pb2_grpc.LLMServiceServicer):
    """Answers with a word and a hash of prompt and features, in three pieces."""

    def __init__(self) -> None:
        self.calls: list[llm_pb2.GenerateRequest] = []
        self.gate = Gate()  # after the first piece
        self.cancelled = asyncio.Event()
        self.error: ServiceError | None = None
        self.late_error: ServiceError | None = None  # after the first piece
        self.stops_early = False
        self.silent = False
        self.info = llm_pb2.GetLLMInfoResponse(
            model="tiny",
            family="llava",
            fingerprint="aaaa",
            engine="scripted",
            max_model_len=4096,
            image_token_id=4,
            max_tokens=2048,
            settings_fingerprint="ffff",
            llm_pruners=["fastv"],
        )
        self.info.llm_pruner_infos.add(name="fastv", side="llm", summary="last token", reads_text=True)

    async def GetModelInfo(  # noqa: N802
        self, request: Any, context: Any
    ) -> llm_pb2.GetLLMInfoResponse:
        return self.info

    async def Generate(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        self.calls.append(request)
        if self.error is not None:
            raise self.error
        seen = hashlib.sha256(str(list(request.input_ids)).encode() + request.visual_tokens[0].features.data)
        if not self.silent:
            yield llm_pb2.GenerateResponse(delta=llm_pb2.Delta(text="red"))
        try:
            await self.gate.pass_through()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.late_error is not None:
            raise self.late_error
        for text in () if self.silent else (" ", seen.hexdigest()[:8]):
            yield llm_pb2.GenerateResponse(delta=llm_pb2.Delta(text=text))
        if self.stops_early:
            return
        kept = len(request.visual_tokens[0].positions)
        yield llm_pb2.GenerateResponse(
            done=llm_pb2.Done(
                finish_reason="stop",
                prompt_tokens=len(request.input_ids) - 1 + kept,
                completion_tokens=3,
                timing=llm_pb2.GenerateTiming(queue_ms=0.5),
            )
        )


async def serve(
    servicer: ScriptedEncoder | ScriptedLLM, port: int = 0, max_concurrent_rpcs: int = 64, **options: Any
) -> GrpcServer:
    """A running server for `servicer`, ready; on a free port unless one is given."""
    if isinstance(servicer, ScriptedEncoder):
        name, add = "fovea.v1.EncoderService", encoder_pb2_grpc.add_EncoderServiceServicer_to_server
    else:
        name, add = "fovea.v1.LLMService", llm_pb2_grpc.add_LLMServiceServicer_to_server
    server = GrpcServer(
        f"127.0.0.1:{port}",
        services=[name],
        max_message_bytes=2**26,
        max_concurrent_rpcs=max_concurrent_rpcs,
        **options,
    )
    add(servicer, server.grpc)
    await server.start()
    await server.ready()
    return server
