"""The LLM service's client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
from google.protobuf import struct_pb2

from fovea.errors import InternalError
from fovea.v1 import llm_pb2, llm_pb2_grpc
from gateway.clients.base import INFO_TIMEOUT_S, ServiceClient
from gateway.clients.encoder import EncodeResult
from gateway.clients.pruner_info import PrunerInfo
from gateway.clients.replies import RawReplies

__all__ = ["GenerateDone", "LLMClient", "LLMInfo", "LlmPrunerArgs", "Sampling"]

# Bounds an answer that never ends. The longest tokens of published vocabularies are runs of a few hundred blanks.
_MAX_TOKEN_BYTES: Final = 2048
_MORE_EVENTS: Final = 64  # than one for each token
# The last message may hold numbers: a vocabulary of logarithms, attention to each visual token.
_MAX_END_BYTES: Final = 16 * 2**20


@dataclass(frozen=True)
class LLMInfo:
    """What the LLM service says of itself."""

    fingerprint: str
    fingerprints: tuple[str, ...]
    max_model_len: int
    image_token_id: int
    video_token_id: int | None  # None where the model takes no videos
    pruners: tuple[PrunerInfo, ...]
    wire_basis: str = ""  # digest of the one that it reads; empty: none


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; temperature 0 is greedy."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: Sequence[str]


@dataclass(frozen=True)
class LlmPrunerArgs:
    """A pruner inside the language model; exactly one of the budgets is set."""

    name: str
    params: Mapping[str, Any]
    keep_tokens: int | None
    keep_ratio: float | None

    def to_message(self) -> llm_pb2.LlmPruner:
        """The pruner on the wire."""
        params = struct_pb2.Struct()
        params.update(self.params)
        message = llm_pb2.LlmPruner(name=self.name, params=params)
        if self.keep_tokens is not None:
            message.keep_tokens = self.keep_tokens
        elif self.keep_ratio is not None:
            message.keep_ratio = self.keep_ratio
        return message


@dataclass(frozen=True)
class GenerateDone:
    """The end of a generation.

    Attributes:
        visual_tokens_by_layer: That each layer attended over in the prefill; empty where none were pruned there.
    """

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    visual_tokens_by_layer: tuple[int, ...]


def _generate_request(
    input_ids: Sequence[int],
    encoded: EncodeResult,
    sampling: Sampling,
    llm_pruner: LlmPrunerArgs | None = None,
    cross_attention: llm_pb2.CrossAttention | None = None,
) -> llm_pb2.GenerateRequest:
    return llm_pb2.GenerateRequest(
        input_ids=input_ids,
        visual_tokens=encoded.visual_tokens,
        sampling=llm_pb2.SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop=sampling.stop,
        ),
        llm_pruner=llm_pruner.to_message() if llm_pruner is not None else None,
        cross_attention=cross_attention,
    )


class LLMClient(ServiceClient[LLMInfo]):
    """The LLM service."""

    name = "LLM service"
    service = "fovea.v1.LLMService"

    @property
    def _stub(self) -> llm_pb2_grpc.LLMServiceStub:
        return llm_pb2_grpc.LLMServiceStub(RawReplies(self.connection.channel))

    async def fetch_info(self) -> LLMInfo:
        request, kind = llm_pb2.GetLLMInfoRequest(), llm_pb2.GetLLMInfoResponse
        reply = await self.call(self._stub.GetModelInfo, request, kind, INFO_TIMEOUT_S)
        return LLMInfo(
            fingerprint=reply.fingerprint,
            fingerprints=(reply.fingerprint, reply.settings_fingerprint, reply.engine),
            max_model_len=reply.max_model_len,
            image_token_id=reply.image_token_id,
            video_token_id=reply.video_token_id if reply.HasField("video_token_id") else None,
            pruners=tuple(PrunerInfo.of(pruner, self.name) for pruner in reply.llm_pruner_infos),
            wire_basis=reply.wire_basis,
        )

    async def generate(
        self,
        input_ids: Sequence[int],
        encoded: EncodeResult,
        sampling: Sampling,
        timeout_s: float,
        llm_pruner: LlmPrunerArgs | None = None,
    ) -> AsyncGenerator[str | GenerateDone]:
        """Yields text as it is decoded, then GenerateDone. Closing the generator cancels the call.

        Raises:
            ServiceError: The LLM service refused, failed, or is away.
        """
        request = _generate_request(input_ids, encoded, sampling, llm_pruner)
        call = self._stub.Generate(request, timeout=timeout_s, metadata=self.metadata())
        done = None
        try:
            async for event in self._events(call, sampling.max_tokens):
                if event.HasField("delta"):
                    yield event.delta.text
                elif event.HasField("done"):
                    done = event.done
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        finally:
            call.cancel()  # of no effect once the stream has ended
        if done is None:
            raise InternalError("the LLM service ended its answer before it was done")
        yield GenerateDone(
            done.finish_reason,
            done.prompt_tokens,
            done.completion_tokens,
            done.timing.queue_ms,
            tuple(done.visual_tokens_by_layer),
        )

    async def _events(self, call: AsyncIterable[bytes], max_tokens: int) -> AsyncIterator[llm_pb2.GenerateResponse]:
        """What a stream says, as long as `max_tokens` tokens can have said it."""
        events, room = max_tokens + _MORE_EVENTS, max_tokens * _MAX_TOKEN_BYTES + _MAX_END_BYTES
        async for data in call:
            events, room = events - 1, room - len(data)
            if events < 0 or room < 0:
                raise InternalError("the LLM service answered with more than was asked for")
            yield await self.read(llm_pb2.GenerateResponse, data)

    async def cross_attention(
        self, input_ids: Sequence[int], encoded: EncodeResult, layer: int | None, timeout_s: float
    ) -> list[float]:
        """Attention of the last prompt token to each visual token in a layer; None: the service's own choice.

        Raises:
            ServiceError: The LLM service refused, failed, or is away.
        """
        request = _generate_request(
            input_ids, encoded, Sampling(1, 0.0, 1.0, None, ()), cross_attention=llm_pb2.CrossAttention(layer=layer)
        )
        call = self._stub.Generate(request, timeout=timeout_s, metadata=self.metadata())
        attention: list[float] = []
        try:
            async for event in self._events(call, max_tokens=1):
                attention.extend(event.done.cross_attention)
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        finally:
            call.cancel()  # of no effect once the stream has ended
        if len(attention) != encoded.num_tokens_kept:
            raise InternalError("the LLM service did not report attention to each visual token")
        return attention
