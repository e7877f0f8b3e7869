"""Requests that run layer by layer: checks, the plan of their pruning, and the attention that they report."""

from __future__ import annotations

from typing import Final

import torch

from fovea.errors import InvalidRequest
from llm_service.engine.base import GenerationRequest
from llm_service.engine.pruned_prefill import AttentionProbe
from llm_service.engine.sequence import Sequence
from llm_service.engine.visual_layout import num_prunable_tokens, prunable_mask
from llm_service.models.base import VisionLanguageModel
from llm_service.models.decoder import runs_layer_by_layer
from llm_service.pruners.plan import PruningPlan, UnreachableBudget
from llm_service.pruners.schedule import scaled_layers

__all__ = ["attention_probe", "check_cross_attention", "pruning_plan"]

# Default layer of reported attention, for 32 layers. It is the first whose attention SparseVLM uses.
_DEFAULT_ATTENTION_LAYER: Final = 2


def check_cross_attention(request: GenerationRequest, model: VisionLanguageModel) -> None:
    """Checks that the attention that a request asks for can be reported.

    Raises:
        InvalidRequest: The model does not run layer by layer, or has no such layer, or the prompt has no visual tokens.
    """
    if request.cross_attention is None:
        return
    if not runs_layer_by_layer(model.causal_lm):
        raise InvalidRequest(
            "this model cannot be run layer by layer; leave cross_attention out", param="cross_attention"
        )
    if not request.prompt.visual_tokens:
        raise InvalidRequest("cross_attention needs visual tokens in the prompt", param="cross_attention")
    layer, num_layers = request.cross_attention.layer, _num_layers(model)
    if layer is not None and layer >= num_layers:
        raise InvalidRequest(
            f"cross_attention.layer is {layer}; 0 to {num_layers - 1} are accepted", param="cross_attention.layer"
        )


def pruning_plan(request: GenerationRequest, model: VisionLanguageModel) -> PruningPlan | None:
    """Pruning inside the model that a request asks for; None for none.

    Raises:
        InvalidRequest: The model does not run layer by layer, or the budget cannot be reached.
    """
    if request.pruning is None:
        return None
    if not runs_layer_by_layer(model.causal_lm):
        raise InvalidRequest("this model cannot be pruned layer by layer; leave llm_pruner out", param="llm_pruner")
    num_visual = num_prunable_tokens(request.prompt, model.visual_token_ids)
    try:
        return request.pruning.pruner.plan(request.pruning.budget, num_visual, _num_layers(model))
    except UnreachableBudget as error:
        raise InvalidRequest(str(error), param="llm_pruner") from error


def attention_probe(sequence: Sequence, model: VisionLanguageModel) -> AttentionProbe | None:
    """Probe that writes the attention of a sequence into it; None if its request asks for none."""
    requested = sequence.request.cross_attention
    if requested is None:
        return None
    is_prunable = prunable_mask(sequence.request.prompt, model.visual_token_ids)

    def report(attention: torch.Tensor) -> None:
        weights = attention.new_zeros(len(is_prunable))
        weights[torch.from_numpy(is_prunable).to(weights.device)] = attention
        sequence.cross_attention = weights.tolist()

    layer = requested.layer
    if layer is None:
        (layer,) = scaled_layers([_DEFAULT_ATTENTION_LAYER], _num_layers(model))
    return AttentionProbe(layer, report)


def _num_layers(model: VisionLanguageModel) -> int:
    count: int = model.causal_lm.config.num_hidden_layers
    return count
