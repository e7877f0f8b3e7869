"""FlowCut's stage inside the language model (Tong et al., NeurIPS 2025): attention and values, once, after two layers.

FlowCut's other stages are a pruner of the vision tower. For images of many tiles its authors halve the budget once more
here. Unlike in the other methods, the softmax runs over the visual tokens only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from fovea.modeling.numerics import at_least_float32, top_k
from llm_service.pruners.base import LlmPruningMethod, PrunerParameters, PruningContext, PruningResult, Stage
from llm_service.pruners.schedule import scaled_layers

__all__ = ["PRUNER", "LlmFlowCutParameters", "prune"]

_AFTER_LAYER: Final = 1


@dataclass(frozen=True, slots=True)
class LlmFlowCutParameters(PrunerParameters):
    """No parameters besides the common ones."""


def schedule(share: float, num_visual: int, num_layers: int, params: LlmFlowCutParameters) -> tuple[Stage, ...]:
    """One stage; the budget is what it keeps."""
    (layer,) = scaled_layers([_AFTER_LAYER], num_layers)
    return (Stage(layer + 1, max(1, round(share * num_visual))),)


def prune(context: PruningContext, keep: int, params: LlmFlowCutParameters) -> PruningResult:
    """Keeps the tokens with the largest (attention + similarity of values to the last token) x size of the value."""
    values = at_least_float32(context.previous.values())
    keys = at_least_float32(context.previous.keys())[:, context.visual_indices]
    query = at_least_float32(context.previous.queries(context.last_index))
    visual_values = values[:, context.visual_indices]
    relevance = _mean_softmax(query, keys)
    similarity = _mean_softmax(values[:, context.last_index], visual_values)
    size = visual_values.mean(dim=0).abs().sum(dim=-1)
    scores = (relevance / relevance.sum() + similarity / similarity.sum()) * size
    return PruningResult(top_k(scores, keep))


def _mean_softmax(query: Tensor, keys: Tensor) -> Tensor:
    """[n] softmax of `query` [H, 1, d] over `keys` [H, n, d], mean over the heads."""
    logits = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return logits.softmax(dim=-1)[:, 0].mean(dim=0)


PRUNER = LlmPruningMethod(
    name="flowcut_llm",
    summary="FlowCut's second stage: attention of the last prompt token and size of the values, after an early layer.",
    reference="FlowCut, NeurIPS 2025",
    reads_text=True,
    compact=True,
    parameters=LlmFlowCutParameters,
    schedule=schedule,
    prune=prune,
)
