"""Client of the LLM service."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import grpc.aio

from fovea.errors import InternalError
from fovea.pruner_spec import PrunerSpec
from fovea.v1 import llm_pb2, llm_pb2_grpc
from fovea.wire.pruner_info import read_specs
from gateway.clients.base import INFO_TIMEOUT_S, ServiceClient
from gateway.clients.encoder import EncodeResult
from gateway.clients.replies import RawReplies
from gateway.core.generate_spec import SAMPLING_PARAMETERS, GenerateSpec, Sampling
from gateway.core.text_delta import TextDelta, TokenLogprob, TopLogprob

__all__ = ["FINISH_REASONS", "GenerateDone", "LLMClient", "LLMInfo"]

FINISH_REASONS: Final = ("stop", "length")

# Bounds an endless answer. The longest tokens of published vocabularies are runs of a few hundred spaces.
_MAX_TOKEN_BYTES: Final = 2048
_EXTRA_EVENTS: Final = 64  # number of events of a stream besides one for each token
_LOGPROBS_OF_EVENT: Final = 256  # number of log-probabilities of an event; more of them take another one
# The last message may hold log-probabilities of the whole vocabulary and the attention to each visual token.
_MAX_DONE_BYTES: Final = 16 * 2**20
# Sampling parameters, and newest field of the request, of LLM services that do not report them yet.
_FIRST_SAMPLING_PARAMETERS: Final = ("temperature", "top_p", "seed", "stop")
_UNREPORTED_NEWEST_FIELD: Final = llm_pb2.GenerateRequest.CROSS_ATTENTION_FIELD_NUMBER


@dataclass(frozen=True)
class LLMInfo:
    """Info of the LLM service.

    Attributes:
        family: Model family, `model_type` of config.json.
        fingerprint: Fingerprint of the checkpoint.
        fingerprints: Everything that changes results: fingerprints of checkpoint and settings, and the engine's name.
        max_model_len: Context length in tokens.
        max_tokens: Largest `max_tokens` of a request.
        image_token_id: Id of the image token.
        video_token_id: Id of the video token; None if the model takes no videos.
        pruners: Pruners inside the language model.
        default_sampling: Sampling parameters of requests that leave them out, by name.
        sampling_parameters: Sampling parameters that the engine has.
        wire_basis: Digest of the basis of the wire format `basis`; empty if there is none.
        newest_request_field: Number of the newest field of GenerateRequest that the service knows.
    """

    family: str
    fingerprint: str
    fingerprints: tuple[str, ...]
    max_model_len: int
    max_tokens: int
    image_token_id: int
    video_token_id: int | None
    pruners: tuple[PrunerSpec, ...]
    default_sampling: Mapping[str, float]
    sampling_parameters: tuple[str, ...]
    wire_basis: str = ""
    newest_request_field: int = _UNREPORTED_NEWEST_FIELD


@dataclass(frozen=True)
class GenerateDone:
    """Final event of a generation.

    Attributes:
        finish_reason: `stop` or `length`.
        prompt_tokens: Number of prompt tokens, visual tokens included.
        completion_tokens: Number of generated tokens.
        queue_ms: Queue time in the LLM service, in milliseconds.
        visual_tokens_by_layer: Number of visual tokens in each layer during the prefill; empty without a pruner inside
            the language model.
    """

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    visual_tokens_by_layer: tuple[int, ...]


def _default_sampling(reply: llm_pb2.GetLLMInfoResponse) -> dict[str, float]:
    reported = {field.name: value for field, value in reply.default_sampling.ListFields()}
    defaults = {name: reported[name] for name in SAMPLING_PARAMETERS if name in reported}
    for name, value in defaults.items():
        if not SAMPLING_PARAMETERS[name].accepts(value):
            raise InternalError(f"the LLM service reports a default of {name} that is not accepted")
    return {"temperature": 0.0, "top_p": 1.0, **defaults}


def _text_delta(delta: llm_pb2.Delta, num_top: int | None) -> TextDelta:
    if num_top is None:
        return TextDelta(delta.text)
    return TextDelta(delta.text, tuple(_token_logprob(one, num_top) for one in delta.logprobs))


def _token_logprob(message: llm_pb2.TokenLogprob, num_top: int) -> TokenLogprob:
    top = tuple(TopLogprob(one.token_id, one.token, one.logprob) for one in message.top)
    logprobs = (message.logprob, *(one.logprob for one in top))
    if len(top) > num_top or not all(map(math.isfinite, logprobs)):
        raise InternalError("the LLM service reports log-probabilities that are not numbers, or more than requested")
    return TokenLogprob(message.token_id, message.token, message.logprob, top)


class LLMClient(ServiceClient[LLMInfo]):
    """Client of the LLM service."""

    name = "LLM service"
    service = "fovea.v1.LLMService"

    @property
    def _stub(self) -> llm_pb2_grpc.LLMServiceStub:
        return llm_pb2_grpc.LLMServiceStub(RawReplies(self.connection.channel))

    async def fetch_info(self) -> LLMInfo:
        request, kind = llm_pb2.GetLLMInfoRequest(), llm_pb2.GetLLMInfoResponse
        reply = await self.call(self._stub.GetModelInfo, request, kind, INFO_TIMEOUT_S)
        return LLMInfo(
            family=reply.family,
            fingerprint=reply.fingerprint,
            fingerprints=(reply.fingerprint, reply.settings_fingerprint, reply.engine),
            max_model_len=reply.max_model_len,
            max_tokens=reply.max_tokens,
            image_token_id=reply.image_token_id,
            video_token_id=reply.video_token_id if reply.HasField("video_token_id") else None,
            pruners=read_specs(reply.llm_pruner_infos, self.name),
            default_sampling=_default_sampling(reply),
            sampling_parameters=tuple(reply.sampling_parameters) or _FIRST_SAMPLING_PARAMETERS,
            wire_basis=reply.wire_basis,
            newest_request_field=max(reply.newest_request_field, _UNREPORTED_NEWEST_FIELD),
        )

    async def generate(
        self, spec: GenerateSpec, encoded: EncodeResult, timeout_s: float, tried: Sequence[str] = ()
    ) -> AsyncGenerator[TextDelta | GenerateDone]:
        """Pieces of text as they are decoded, then GenerateDone. Closing the generator cancels the call.

        Args:
            spec: The call, without its visual tokens.
            encoded: Visual tokens of the prompt.
            timeout_s: Timeout of the call in seconds.
            tried: Ids of the replicas that have refused the request.

        Raises:
            ServiceError: The LLM service refused the call, failed, or is unavailable.
        """
        done, lacks_logprobs = None, spec.top_logprobs is not None
        call = self._call(spec.to_proto(), encoded, timeout_s, tried)
        async with aclosing(call) as events:
            async for event in events:
                if event.HasField("delta"):
                    delta = _text_delta(event.delta, spec.top_logprobs)
                    lacks_logprobs = lacks_logprobs and not delta.logprobs
                    if delta.text and lacks_logprobs:  # they come with the first character of a token
                        raise InternalError("the LLM service answered without the log-probabilities of its text")
                    yield delta
                elif event.HasField("done"):
                    done = event.done
        if done is None:
            raise InternalError("the LLM service ended its answer before it was done")
        if done.finish_reason not in FINISH_REASONS:
            raise InternalError("the LLM service reports a reason for the end of its answer that is not known")
        if not math.isfinite(done.timing.queue_ms):
            raise InternalError("the LLM service reports a queue time that is not a number")
        yield GenerateDone(
            done.finish_reason,
            done.prompt_tokens,
            done.completion_tokens,
            done.timing.queue_ms,
            tuple(done.visual_tokens_by_layer),
        )

    async def _call(
        self, request: llm_pb2.GenerateRequest, encoded: EncodeResult, timeout_s: float, tried: Sequence[str]
    ) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        """Events of a generate call with these visual tokens. Closing the generator cancels the call."""
        encoded.add_to(request)
        call = self._stub.Generate(request, timeout=timeout_s, metadata=self.metadata(tried))
        try:
            async for event in self._events(call, request):
                yield event
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        finally:
            call.cancel()  # no effect once the stream has ended

    async def _events(
        self, call: AsyncIterable[bytes], request: llm_pb2.GenerateRequest
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        """Events of a stream. Their number and bytes are bounded by what `max_tokens` tokens can need."""
        max_tokens = request.sampling.max_tokens
        # Each token is in the text once, then with its log-probability, and so are the most probable ones.
        tokens_of_place = 2 + request.top_logprobs if request.HasField("top_logprobs") else 1
        events_left = max_tokens + max_tokens // _LOGPROBS_OF_EVENT + _EXTRA_EVENTS
        bytes_left = max_tokens * tokens_of_place * _MAX_TOKEN_BYTES + _MAX_DONE_BYTES
        async for data in call:
            events_left, bytes_left = events_left - 1, bytes_left - len(data)
            if events_left < 0 or bytes_left < 0:
                raise InternalError("the LLM service answered with more than was requested")
            yield await self.read(llm_pb2.GenerateResponse, data)

    async def cross_attention(
        self,
        input_ids: Sequence[int],
        encoded: EncodeResult,
        layer: int | None,
        timeout_s: float,
        tried: Sequence[str] = (),
    ) -> list[float]:
        """Attention of the last prompt token to each visual token.

        Args:
            input_ids: Ids of the prompt.
            encoded: Visual tokens of the prompt.
            layer: Layer of the language model, from 0; None for the service's default.
            timeout_s: Timeout of the call in seconds.
            tried: Ids of the replicas that have refused the request.

        Raises:
            ServiceError: The LLM service refused the call, failed, or is unavailable.
        """
        spec = GenerateSpec(input_ids=tuple(input_ids), sampling=Sampling(max_tokens=1, temperature=0))
        request = spec.to_proto()
        request.cross_attention.CopyFrom(llm_pb2.CrossAttention(layer=layer))
        attention: list[float] = []
        async with aclosing(self._call(request, encoded, timeout_s, tried)) as events:
            async for event in events:
                attention.extend(event.done.cross_attention)
        if len(attention) != encoded.num_tokens_kept or not all(map(math.isfinite, attention)):
            raise InternalError("the LLM service did not report attention to each visual token")
        return attention
