"""GenerateResponse and GetLLMInfoResponse messages."""

from __future__ import annotations

from dataclasses import asdict

from fovea.v1 import llm_pb2
from fovea.wire.pruner_info import write_spec
from llm_service.engine.base import Delta, Done
from llm_service.server.served_model import ServedModel

__all__ = ["describe", "event_message"]


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
        llm_pruners=list(model.engine.pruners),
        llm_pruner_infos=[write_spec(pruner.spec) for pruner in model.engine.pruners.values()],
    )


def event_message(event: Delta | Done) -> llm_pb2.GenerateResponse:
    """Message of an event of an answer."""
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
