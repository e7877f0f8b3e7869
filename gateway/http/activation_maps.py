"""The four activation maps of figure 7 of the DeSAP paper (arXiv 2604.11240), put together from calls to the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fovea.errors import InvalidRequest
from fovea.pruner_spec import NO_PRUNING
from gateway.clients.encoder import EncodeResult
from gateway.core.question import Question
from gateway.http.responses import as_rows, explanation
from gateway.http.schemas.answer_response import MediaExplanations
from gateway.http.schemas.explain import ActivationMaps
from gateway.http.state import GatewayState

__all__ = ["activation_maps"]


async def activation_maps(
    question: Question, encoded: EncodeResult, state: GatewayState, *, layer: int | None
) -> ActivationMaps:
    """The activation maps of one image.

    Args:
        question: Question about one image, whose encode call asks for an explanation.
        encoded: Its visual tokens.
        state: Objects of this process.
        layer: Layer of the language model, from 0; None for the LLM service's default.

    Raises:
        InvalidRequest: The image is cut into tiles, or a service does not offer what maps need.
        ServiceError: A service refused a call, failed, or is unavailable.
    """
    if isinstance(explanation(encoded), MediaExplanations):
        raise InvalidRequest("maps show an image that is not cut into tiles; this model cuts it", param="maps")
    offered = {pruner.name for pruner in (await state.encoder.info()).pruners}
    if missing := {"desap", NO_PRUNING} - offered:
        raise InvalidRequest(
            f"maps need the pruner {min(missing)!r}, which this encoder service does not offer", param="maps"
        )
    # A service that can prune inside its language model runs it layer by layer, and reports its attention.
    if not (await state.llm.info()).pruners:
        raise InvalidRequest(
            "maps need the attention of the language model, which this LLM service does not report: with --engine"
            " transformers it does, of a Llama only; leave maps out",
            param="maps",
        )
    params = question.encode.pruner_params if encoded.pruner == "desap" else {}
    vanilla = await state.answers.explain(_with_pruner(question, "desap", {**params, "similarity": "vanilla"}, encoded))
    decoupled = await state.answers.explain(
        _with_pruner(question, "desap", {**params, "similarity": "decoupled"}, encoded)
    )
    unpruned = _with_pruner(question, NO_PRUNING, {}, encoded)
    attention = await state.answers.attention(replace(unpruned, encode=replace(unpruned.encode, explain=False)), layer)
    return _figure(vanilla, decoupled, attention)


def _with_pruner(question: Question, pruner: str, params: Mapping[str, Any], encoded: EncodeResult) -> Question:
    """The question with another pruner."""
    budget = question.encode.budget
    # "auto" is meant for the pruner of the request. The other pruners of the maps cannot choose a budget.
    if budget is not None and budget.is_auto and pruner != encoded.pruner:
        budget = None
    if pruner == NO_PRUNING:
        budget = None
    return replace(question, encode=replace(question.encode, pruner=pruner, pruner_params=params, budget=budget))


def _figure(vanilla: EncodeResult, decoupled: EncodeResult, attention: list[float]) -> ActivationMaps:
    (vanilla_item,), (decoupled_item,) = vanilla.explanations, decoupled.explanations
    _, _, columns = decoupled_item.grid
    cross_attention = as_rows(attention, columns)
    assert cross_attention is not None, "an image has at least one patch"
    return ActivationMaps(
        cls_attention=as_rows(decoupled_item.saliency_map, columns),
        cross_attention=cross_attention,
        vanilla_similarity=as_rows(vanilla_item.task_map, columns),
        decoupled_similarity=as_rows(decoupled_item.task_map, columns),
    )
