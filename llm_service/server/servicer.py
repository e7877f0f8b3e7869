"""gRPC methods of the LLM service: from a message to a request, to the engine, and back to messages."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import ClassVar

import grpc
import grpc.aio

from fovea.rpc.messages import run_off_loop
from fovea.rpc.server import GrpcServer
from fovea.service import Servicer
from fovea.v1 import llm_pb2, llm_pb2_grpc
from fovea.wire.cache_salts import read_cache_salt
from llm_service.engine.base import GenerationRequest
from llm_service.prompts import Prompt, PromptLimits, read_prompt, visual_token_bytes
from llm_service.server.requests import read_cross_attention, read_llm_pruner, read_sampling, read_top_logprobs
from llm_service.server.responses import describe, event_messages
from llm_service.server.served_model import ServedModel
from llm_service.settings import LLMSettings

__all__ = ["LLMServicer"]


class LLMServicer(Servicer[ServedModel], llm_pb2_grpc.LLMServiceServicer):
    """Methods of the service, see `fovea.service.Servicer`."""

    SERVICE: ClassVar[str] = "fovea.v1.LLMService"
    NAME: ClassVar[str] = "LLM service"
    LOADING_RETRY_S: ClassVar[float] = 5.0

    def __init__(self, settings: LLMSettings, server: GrpcServer) -> None:
        super().__init__(settings, server)
        self._max_timeout_s = settings.max_timeout_s
        self._in_flight = server.in_flight
        llm_pb2_grpc.add_LLMServiceServicer_to_server(self, server.grpc)

    async def Generate(  # noqa: N802  # as in the contract
        self, request: llm_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        """Streams an answer. The sequence is aborted when the call ends early."""
        model = self._model
        pruning = None
        if request.HasField("llm_pruner"):
            pruning = read_llm_pruner(request.llm_pruner, model.engine.pruners, model.engine.name)
        sampling = read_sampling(request.sampling, model.max_tokens, model.default_sampling)
        cache_salt = read_cache_salt(request)
        prompt = await self._read_prompt(request, model.limits, context)
        generation = model.engine.submit(
            GenerationRequest(
                sampling=sampling,
                prompt=prompt,
                deadline=self._deadline(context),
                first_token_logprobs=request.first_token_logprobs,
                pruning=pruning,
                cross_attention=read_cross_attention(request),
                top_logprobs=read_top_logprobs(request),
                cache_salt=cache_salt,
            )
        )
        # A callback is needed: a call that is cancelled while it sends leaves this generator suspended.
        context.add_done_callback(lambda _: generation.abort())
        async for event in generation:
            for message in event_messages(event):
                yield message

    async def GetModelInfo(  # noqa: N802
        self, request: llm_pb2.GetLLMInfoRequest, context: grpc.aio.ServicerContext
    ) -> llm_pb2.GetLLMInfoResponse:
        """Describes the model and its limits."""
        return describe(self._model)

    async def _read_prompt(
        self, request: llm_pb2.GenerateRequest, limits: PromptLimits, context: grpc.aio.ServicerContext
    ) -> Prompt:
        """Validated prompt. Visual tokens are decoded off the event loop, after their bytes have been counted."""
        if not request.visual_tokens:
            return read_prompt(request.input_ids, (), limits)
        self._in_flight.hold(visual_token_bytes(request.visual_tokens, limits), context)
        return await run_off_loop(lambda: read_prompt(request.input_ids, request.visual_tokens, limits))

    def _deadline(self, context: grpc.aio.ServicerContext) -> float:
        remaining = context.time_remaining()
        return time.monotonic() + min(self._max_timeout_s, self._max_timeout_s if remaining is None else remaining)
