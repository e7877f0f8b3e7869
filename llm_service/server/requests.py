"""Conversion of GenerateRequest messages to requests of the engine, with a check of every field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from google.protobuf import json_format

from fovea.errors import InvalidRequest, NotFound
from fovea.sampling_ranges import TOP_LOGPROBS
from fovea.v1 import llm_pb2
from fovea.wire.budgets import read_budget
from llm_service.engine.base import CrossAttention, PruningParams
from llm_service.pruners.base import AnyLlmPruningMethod
from llm_service.pruners.plan import bind
from llm_service.sampling import SamplingParams, TokenSampling

__all__ = ["read_cross_attention", "read_llm_pruner", "read_sampling", "read_top_logprobs"]


def read_sampling(message: llm_pb2.SamplingParams, max_tokens: int, defaults: TokenSampling) -> SamplingParams:
    """Sampling parameters in a message.

    Args:
        message: The request's field `sampling`.
        max_tokens: Largest `max_tokens` of a request.
        defaults: Values of the fields that the message leaves out.

    Raises:
        InvalidRequest: A value is out of range.
    """
    if not 1 <= message.max_tokens <= max_tokens:
        raise InvalidRequest(f"max_tokens must be 1 to {max_tokens}, not {message.max_tokens}", param="max_tokens")
    values = asdict(defaults) | {name: getattr(message, name) for name in asdict(defaults) if message.HasField(name)}
    return SamplingParams(
        max_tokens=message.max_tokens,
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
        ignore_eos=message.ignore_eos,
        **(values if values["top_p"] else values | {"top_p": defaults.top_p}),
    )


def read_cross_attention(request: llm_pb2.GenerateRequest) -> CrossAttention | None:
    """Attention that a request asks for; None for none."""
    if not request.HasField("cross_attention"):
        return None
    message = request.cross_attention
    return CrossAttention(message.layer if message.HasField("layer") else None)


def read_top_logprobs(request: llm_pb2.GenerateRequest) -> int | None:
    """Number of most probable tokens to report for each token; None for no log-probabilities.

    Raises:
        InvalidRequest: The number is too large.
    """
    if not request.HasField("top_logprobs"):
        return None
    if not TOP_LOGPROBS.accepts(request.top_logprobs):
        raise InvalidRequest(f"top_logprobs must be {TOP_LOGPROBS}, not {request.top_logprobs}", param="top_logprobs")
    return request.top_logprobs


def read_llm_pruner(
    message: llm_pb2.LlmPruner, pruners: Mapping[str, AnyLlmPruningMethod], engine: str
) -> PruningParams:
    """Validates a request's LLM pruner and binds its parameters.

    Args:
        message: The request's field `llm_pruner`.
        pruners: Pruning methods of the engine, by name.
        engine: Name of the engine.

    Raises:
        NotFound: There is no method of this name.
        InvalidRequest: The engine cannot prune, or a parameter or the budget is not accepted.
    """
    if not pruners:
        alternative = "" if engine == "transformers" else ", or use a service with --engine transformers"
        raise InvalidRequest(
            f"engine {engine} cannot prune inside this language model; leave llm_pruner out{alternative}",
            param="llm_pruner",
        )
    if message.name not in pruners:
        raise NotFound(
            f"there is no LLM pruner {message.name[:64]!r}; accepted: {', '.join(pruners)}", param="llm_pruner.name"
        )
    try:
        pruner = bind(pruners[message.name], json_format.MessageToDict(message.params))
    except ValueError as error:  # InvalidParameter, or json_format's error for NaN, which JSON lacks
        raise InvalidRequest(f"LLM pruner {message.name}: {error}", param="llm_pruner.params") from error
    budget = read_budget(message, path="llm_pruner.")
    if budget is None:
        raise InvalidRequest("llm_pruner needs a budget: keep_tokens or keep_ratio", param="llm_pruner")
    return PruningParams(pruner, budget)
