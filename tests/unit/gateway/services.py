"""Scripted encoder and LLM services: gRPC servers with small replies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from fovea.errors import InvalidRequest, NotFound, ServiceError
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc, tensor_pb2
from fovea.wire.tensors import to_message

GRID = (2, 3)
CHANNELS = 8


class Gate:
    """A gate that holds calls while it is shut."""

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


def features_of(file: bytes, text_ids: Sequence[int], count: int, dtype: Any) -> tensor_pb2.Tensor:
    """Features that the scripted encoder returns for an image or video file."""
    digest = hashlib.sha256(file + str(list(text_ids)).encode()).digest()
    features = np.frombuffer(digest * count, np.uint8)[: count * CHANNELS].astype(np.float32)
    return to_message(features.reshape(count, CHANNELS), dtype)


class ScriptedEncoder(encoder_pb2_grpc.EncoderServiceServicer):
    """Encoder service that keeps the first half of the patches. Features depend on file and text."""

    def __init__(self) -> None:
        self.calls: list[encoder_pb2.EncodeRequest] = []
        self.info_calls = 0
        self.info_gate = Gate()
        self.info_error: ServiceError | None = None
        self.metadata: list[dict[str, Any]] = []
        self.timeouts_s: list[float] = []  # of the calls
        self.gate = Gate()
        self.cancelled = asyncio.Event()
        self.error: ServiceError | None = None
        self.unsuitable: set[str] = set()
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
            max_images=8,
            newest_request_field=max(encoder_pb2.EncodeRequest.DESCRIPTOR.fields_by_number),
        )
        self.info.pruners.add(name="none", side="encoder", summary="keeps all", reads_text=False)
        desap = self.info.pruners.add(
            name="desap", side="encoder", summary="task and saliency", reference="DeSAP", reads_text=True
        )
        desap.parameters.add(name="beta", type="number", description="0 to 1").default.number_value = 0.5
        desap.parameters.add(name="lambda", type="number").default.number_value = 1
        desap.parameters.add(name="layer", type="integer").default.number_value = -1
        desap.parameters.add(name="crops", type="integer").default.null_value = 0
        desap.parameters.add(name="fcma", type="boolean").default.bool_value = True
        desap.parameters.add(name="metric", type="string").default.string_value = "hidden"
        self.info.pruners.add(name="fovea", side="encoder", summary="covers", reads_text=True, chooses_budget=True)

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
        self.timeouts_s.append(context.time_remaining())
        try:
            await self.gate.pass_through()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        if self.reply is not None:
            return self.reply
        names = [pruner.name for pruner in self.info.pruners]
        if request.pruner in self.unsuitable:
            raise InvalidRequest(f"{request.pruner} does not work here; accepted: {', '.join(names)}", param="pruner")
        if request.pruner not in names:
            raise NotFound(f"there is no pruner; accepted: {', '.join(names)}", param="pruner")
        return self._encode(request)

    def _encode(self, request: Any) -> encoder_pb2.EncodeResponse:
        response = encoder_pb2.EncodeResponse(pruner=request.pruner, timing=encoder_pb2.EncodeTiming(queue_ms=1.5))
        for image in request.images:
            self._add(response, request, image, frames=1)
        for video in request.videos:
            self._add(response, request, video.SerializeToString(), frames=2)
            response.visual_tokens[-1].kind = tensor_pb2.VISUAL_KIND_VIDEO
        return response

    def _add(self, response: encoder_pb2.EncodeResponse, request: Any, file: bytes, *, frames: int) -> None:
        total = frames * GRID[0] * GRID[1]
        kept = list(range(total if request.pruner == "none" else total // 2))
        response.num_tokens_total.append(total)
        response.features_cached.append(False)
        response.viewed.add(left=-0.25, top=0.0, right=1.25, bottom=1.0)
        response.visual_tokens.add(
            features=features_of(file, request.text_ids, len(kept), request.wire_dtype or tensor_pb2.DTYPE_FLOAT16),
            positions=kept,
            grid=tensor_pb2.Grid(frames=frames, rows=GRID[0], columns=GRID[1]),
            fingerprint=self.info.fingerprint,
        )
        if request.explain:
            response.explanations.add(
                task_map=[0.5] * total, saliency_map=[0.25] * total, merged_into=[0, 1, 2, 0, 1, -1] * frames
            )


def delta(text: str, *tokens: str, num_top: int = 0, logprob: float = -0.5) -> llm_pb2.Delta:
    """Delta with the log-probabilities of some tokens, whose ids are the lengths of their texts."""
    top = [llm_pb2.TopLogprob(token_id=i, token=b"t", logprob=-i) for i in range(num_top)]
    entries = [
        llm_pb2.TokenLogprob(token_id=len(token), token=token.encode(), logprob=logprob, top=top) for token in tokens
    ]
    return llm_pb2.Delta(text=text, logprobs=entries)


class ScriptedLLM(llm_pb2_grpc.LLMServiceServicer):
    """LLM service whose answer is the word `first`, then a hash of prompt and features, in three pieces."""

    def __init__(self) -> None:
        self.calls: list[llm_pb2.GenerateRequest] = []
        self.gate = Gate()  # after the first piece
        self.cancelled = asyncio.Event()
        self.error: ServiceError | None = None
        self.next_errors: list[ServiceError] = []  # of the next calls, one each
        self.late_error: ServiceError | None = None  # after the first piece
        self.stops_early = False
        self.first = "red"
        self.no_text = False
        self.no_attention = False
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
            default_sampling=llm_pb2.SamplingParams(temperature=0, top_p=1, repetition_penalty=1.05),
            sampling_parameters=[field.name for field in llm_pb2.SamplingParams.DESCRIPTOR.fields],
            newest_request_field=max(llm_pb2.GenerateRequest.DESCRIPTOR.fields_by_number),
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
        if self.next_errors:
            raise self.next_errors.pop(0)
        if self.error is not None:
            raise self.error
        features = b"".join(tokens.features.data for tokens in request.visual_tokens)
        seen = hashlib.sha256(str(list(request.input_ids)).encode() + features)
        if not self.no_text:
            yield llm_pb2.GenerateResponse(delta=self._delta(request, self.first))
        try:
            await self.gate.pass_through()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.late_error is not None:
            raise self.late_error
        for text in () if self.no_text else (" ", seen.hexdigest()[:8]):
            yield llm_pb2.GenerateResponse(delta=self._delta(request, text))
        if self.stops_early:
            return
        kept = sum(len(tokens.positions) for tokens in request.visual_tokens)
        yield llm_pb2.GenerateResponse(
            done=llm_pb2.Done(
                finish_reason="stop",
                prompt_tokens=len(request.input_ids) - len(request.visual_tokens) + kept,
                completion_tokens=3,
                timing=llm_pb2.GenerateTiming(queue_ms=0.5),
                cross_attention=self._attention(request),
            )
        )

    def _delta(self, request: Any, text: str) -> llm_pb2.Delta:
        return delta(text, text, num_top=request.top_logprobs) if request.HasField("top_logprobs") else delta(text)

    def _attention(self, request: Any) -> list[float]:
        if not request.HasField("cross_attention") or self.no_attention:
            return []
        return [0.01 * position for position in request.visual_tokens[0].positions]


async def serve(
    servicer: ScriptedEncoder | ScriptedLLM, port: int = 0, max_concurrent_rpcs: int = 64, **options: Any
) -> GrpcServer:
    """A ready server for `servicer`, on a free port by default."""
    if isinstance(servicer, ScriptedEncoder):
        name, add = "fovea.v1.EncoderService", encoder_pb2_grpc.add_EncoderServiceServicer_to_server
    else:
        name, add = "fovea.v1.LLMService", llm_pb2_grpc.add_LLMServiceServicer_to_server
    server = GrpcServer(
        ServerConfig(f"127.0.0.1:{port}", max_message_bytes=2**26, max_concurrent_rpcs=max_concurrent_rpcs, **options),
        services=[name],
    )
    add(servicer, server.grpc)
    await server.start()
    await server.ready()
    return server
