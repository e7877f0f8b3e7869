"""The gRPC servicer: converts messages to dataclasses and back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio

from fovea.errors import InvalidRequest, Unavailable
from fovea.rpc.bytes_in_flight import BytesInFlight
from fovea.rpc.messages import run_off_loop
from fovea.v1 import llm_pb2, llm_pb2_grpc
from llm_service.engine.base import CrossAttention, Delta, Done, GenerationRequest, LLMEngine
from llm_service.prompts import Prompt, PromptLimits, read_prompt, visual_token_bytes
from llm_service.sampling import SamplingParams
from llm_service.server.pruner_messages import pruner_info, read_llm_pruner

__all__ = ["LLMServicer", "ServedModel"]


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and the facts that `GetModelInfo` reports.

    Attributes:
        name: Name under which the model is served.
        family: Name of the family, as in the checkpoint's config.
        limits: Limits of prompts.
        max_tokens: Largest `max_tokens` of a request.
        settings_fingerprint: Fingerprint of everything except the checkpoint that changes answers.
        engine: The engine that runs the model.
    """

    name: str
    family: str
    limits: PromptLimits
    max_tokens: int
    settings_fingerprint: str
    engine: LLMEngine


class LLMServicer(llm_pb2_grpc.LLMServiceServicer):
    """The servicer. Calls fail with Unavailable until `serve` is called.

    Args:
        max_timeout_s: Longest deadline of a call in seconds, and the default.
        in_flight: Byte counter for the visual tokens that are decoded from messages.
    """

    def __init__(self, *, max_timeout_s: float, in_flight: BytesInFlight) -> None:
        self._max_timeout_s = max_timeout_s
        self._in_flight = in_flight
        self._served: ServedModel | None = None

    def serve(self, model: ServedModel) -> None:
        """Starts to serve a model."""
        self._served = model

    @property
    def _model(self) -> ServedModel:
        if self._served is None:
            raise Unavailable("the LLM service is still loading its model", retry_after_s=5.0)
        return self._served

    async def Generate(  # noqa: N802  # as in the contract
        self, request: llm_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        """Streams an answer. The sequence is aborted when the call ends early."""
        model = self._model
        pruning = None
        if request.HasField("llm_pruner"):
            pruning = read_llm_pruner(request.llm_pruner, model.engine.pruners, model.engine.name)
        sampling = _read_sampling(request.sampling, model.max_tokens)
        prompt = await self._read_prompt(request, model.limits, context)
        generation = model.engine.submit(
            GenerationRequest(
                sampling=sampling,
                prompt=prompt,
                deadline=self._deadline(context),
                first_token_logprobs=request.first_token_logprobs,
                pruning=pruning,
                cross_attention=_read_cross_attention(request),
            )
        )
        # A callback is needed: a call that is cancelled while it sends leaves this generator suspended.
        context.add_done_callback(lambda _: generation.abort())
        async for event in generation:
            yield _to_message(event)

    async def GetModelInfo(  # noqa: N802
        self, request: llm_pb2.GetLLMInfoRequest, context: grpc.aio.ServicerContext
    ) -> llm_pb2.GetLLMInfoResponse:
        """Describes the model and its limits."""
        model = self._model
        return llm_pb2.GetLLMInfoResponse(
            model=model.name,
            family=model.family,
            fingerprint=model.limits.fingerprint,
            engine=model.engine.name,
            max_model_len=model.limits.max_model_len,
            vocab_size=model.limits.vocab_size,
            image_token_id=model.limits.image_token_id,
            video_token_id=model.limits.video_token_id,
            visual_hidden_size=model.limits.visual_hidden_size,
            max_tokens=model.max_tokens,
            settings_fingerprint=model.settings_fingerprint,
            wire_basis="" if model.limits.wire_basis is None else model.limits.wire_basis.digest.hex(),
            llm_pruners=list(model.engine.pruners),
            llm_pruner_infos=[pruner_info(pruner) for pruner in model.engine.pruners.values()],
        )

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


def _read_sampling(message: llm_pb2.SamplingParams, max_tokens: int) -> SamplingParams:
    if not 1 <= message.max_tokens <= max_tokens:
        raise InvalidRequest(f"max_tokens must be 1 to {max_tokens}, not {message.max_tokens}", param="max_tokens")
    return SamplingParams(
        max_tokens=message.max_tokens,
        temperature=message.temperature,
        top_p=message.top_p or 1.0,
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
    )


def _read_cross_attention(request: llm_pb2.GenerateRequest) -> CrossAttention | None:
    if not request.HasField("cross_attention"):
        return None
    message = request.cross_attention
    return CrossAttention(message.layer if message.HasField("layer") else None)


def _to_message(event: Delta | Done) -> llm_pb2.GenerateResponse:
    if isinstance(event, Delta):
        return llm_pb2.GenerateResponse(delta=llm_pb2.Delta(text=event.text))
    return llm_pb2.GenerateResponse(
        done=llm_pb2.Done(
            finish_reason=event.finish_reason,
            prompt_tokens=event.prompt_tokens,
            completion_tokens=event.completion_tokens,
            timing=llm_pb2.GenerateTiming(
                queue_ms=event.timing.queue_ms,
                time_to_first_token_ms=event.timing.time_to_first_token_ms,
                generate_ms=event.timing.generate_ms,
            ),
            first_token_logprobs=event.first_token_logprobs,
            token_ids=event.token_ids,
            visual_tokens_by_layer=event.visual_tokens_by_layer,
            cross_attention=event.cross_attention,
        )
    )
