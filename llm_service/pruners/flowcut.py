"""FlowCut's stage inside the language model (Tong et al., NeurIPS 2025): attention and values, once, after two layers.

The encoder side of FlowCut is a pruner of the vision tower; for pictures of many tiles its authors halve the budget
again here. Unlike the other methods the softmax runs over the visual tokens alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from fovea.modeling.numerics import at_least_float32, top_k
from llm_service.pruners.base import Choice, LlmPruner, Moment, PrunerParameters, Stage
from llm_service.pruners.schedule import scaled_layers

__all__ = ["PRUNER", "FlowCutParameters", "prune"]

_LAYER: Final = 1


@dataclass(frozen=True, slots=True)
class FlowCutParameters(PrunerParameters):
    """Nothing of its own."""


def schedule(share: float, num_visual: int, num_layers: int, params: FlowCutParameters) -> tuple[Stage, ...]:
    """One prune; the budget is what it leaves."""
    (layer,) = scaled_layers([_LAYER], num_layers)
    return (Stage(layer + 1, max(1, round(share * num_visual))),)


def prune(moment: Moment, keep: int, params: FlowCutParameters) -> Choice:
    """Relevance and likeness to the last token, added and weighted by the size of the value."""
    values = at_least_float32(moment.previous.values())
    keys = at_least_float32(moment.previous.keys())[:, moment.visual]
    query = at_least_float32(moment.previous.queries(moment.last))
    visual_values = values[:, moment.visual]
    relevance = _mean_softmax(query, keys)
    likeness = _mean_softmax(values[:, moment.last], visual_values)
    size = visual_values.mean(dim=0).abs().sum(dim=-1)
    return Choice(top_k((relevance / relevance.sum() + likeness / likeness.sum()) * size, keep))


def _mean_softmax(query: Tensor, keys: Tensor) -> Tensor:
    """[n] softmax of `query` [H, 1, d] over `keys` [H, n, d], mean over the heads."""
    logits = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return logits.softmax(dim=-1)[:, 0].mean(dim=0)


PRUNER = LlmPruner(
    name="flowcut_llm",
    summary="FlowCut's second stage: attention of the last prompt token and size of the values, after an early layer.",
    reference="FlowCut, NeurIPS 2025",
    reads_text=True,
    compact=True,
    parameters=FlowCutParameters,
    schedule=schedule,
    prune=prune,
)
