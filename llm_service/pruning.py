"""Pruners inside the language model as messages: what a request asks for, and what the service offers."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import json_format

from fovea.errors import InvalidRequest, NotFound
from fovea.v1 import llm_pb2, pruner_pb2
from fovea.wire.pruner_info import describe_pruner
from llm_service.engines.base import Pruning
from llm_service.pruners.base import AnyPruner
from llm_service.pruners.plan import Budget, bind

__all__ = ["describe", "read_pruning"]


def read_pruning(message: llm_pb2.LlmPruner, pruners: Mapping[str, AnyPruner], engine: str) -> Pruning:
    """What a message asks for.

    Args:
        message: From the request.
        pruners: What the engine can run.
        engine: Its name.

    Raises:
        NotFound: No such method.
        InvalidRequest: The engine cannot prune at all, or a parameter or the budget is not accepted.
    """
    if not pruners:
        elsewhere = "" if engine == "transformers" else ", or ask a service with --engine transformers"
        raise InvalidRequest(
            f"engine {engine} cannot prune inside this language model; leave llm_pruner out{elsewhere}",
            param="llm_pruner",
        )
    if message.name not in pruners:
        raise NotFound(
            f"there is no LLM pruner {message.name[:64]!r}; accepted: {', '.join(pruners)}", param="llm_pruner.name"
        )
    try:
        pruner = bind(pruners[message.name], json_format.MessageToDict(message.params))
    except ValueError as error:  # InvalidParameter, or that of json_format for NaN, which JSON does not know
        raise InvalidRequest(f"LLM pruner {message.name}: {error}", param="llm_pruner.params") from error
    return Pruning(pruner, _read_budget(message))


def _read_budget(message: llm_pb2.LlmPruner) -> Budget:
    which = message.WhichOneof("budget")
    if which is None:
        raise InvalidRequest("llm_pruner needs a budget: keep_tokens or keep_ratio", param="llm_pruner")
    try:
        if which == "keep_tokens":
            return Budget(keep_tokens=message.keep_tokens)
        return Budget(keep_ratio=message.keep_ratio)
    except ValueError as error:
        raise InvalidRequest(str(error), param=f"llm_pruner.{which}") from error


def describe(pruner: AnyPruner) -> pruner_pb2.PrunerInfo:
    """A method as clients see it."""
    return describe_pruner(
        pruner.name,
        side="llm",
        summary=pruner.summary,
        reference=pruner.reference,
        reads_text=pruner.reads_text,
        parameters=pruner.describe(),
    )
