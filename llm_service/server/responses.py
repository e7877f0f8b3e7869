"""GenerateResponse and GetLLMInfoResponse messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from fovea.v1 import llm_pb2
from fovea.wire.pruner_info import write_spec
from llm_service.engine.base import Delta, Done, TokenLogprob
from llm_service.server.served_model import ServedModel

__all__ = ["describe", "event_messages"]

# A message has at most 32,768 fields, and a token with its 20 most probable ones has 84 of them.
_MOST_LOGPROBS: Final = 256


def describe(model: ServedModel) -> llm_pb2.GetLLMInfoResponse:
    """Description of the model, its limits and its pruners."""
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
        default_sampling=llm_pb2.SamplingParams(**asdict(model.default_sampling)),
        sampling_parameters=model.engine.sampling_parameters,
        newest_request_field=max(llm_pb2.GenerateRequest.DESCRIPTOR.fields_by_number),
        llm_pruners=list(model.engine.pruners),
        llm_pruner_infos=[write_spec(pruner.spec) for pruner in model.engine.pruners.values()],
    )


def event_messages(event: Delta | Done) -> Iterator[llm_pb2.GenerateResponse]:
    """Messages of an event of an answer. Only a delta with many log-probabilities takes several."""
    if isinstance(event, Delta):
        for start in range(0, max(len(event.logprobs), 1), _MOST_LOGPROBS):
            yield llm_pb2.GenerateResponse(
                delta=llm_pb2.Delta(
                    text="" if start else event.text,
                    logprobs=map(_token_logprob, event.logprobs[start : start + _MOST_LOGPROBS]),
                )
            )
        return
    yield llm_pb2.GenerateResponse(
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


def _token_logprob(logprob: TokenLogprob) -> llm_pb2.TokenLogprob:
    return llm_pb2.TokenLogprob(
        token_id=logprob.token_id,
        token=logprob.token,
        logprob=logprob.logprob,
        top=[llm_pb2.TopLogprob(token_id=top.token_id, token=top.token, logprob=top.logprob) for top in logprob.top],
    )
