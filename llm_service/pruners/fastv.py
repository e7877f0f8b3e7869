"""FastV (Chen et al., ECCV 2024, arXiv 2403.06764): attention of the last prompt token, after two layers.

The paper describes a score of attention averaged over all tokens; the released code takes the last prompt token. This
is the score of the code. Tokens are dropped once, in the prefill.
"""

from __future__ import annotations

from fovea.modeling.numerics import top_k
from llm_service.pruners.attention import last_token_attention
from llm_service.pruners.base import LlmPruningMethod, PruningContext, PruningResult
from llm_service.pruners.early_layer import EarlyLayerParameters, schedule

__all__ = ["PRUNER", "prune"]


def prune(context: PruningContext, keep: int, params: EarlyLayerParameters) -> PruningResult:
    """Keeps the tokens with the most attention of the last prompt token in the previous layer."""
    kept = top_k(last_token_attention(context.previous, context), keep)
    return PruningResult(kept, duplicates_cache=params.fidelity)


PRUNER = LlmPruningMethod(
    name="fastv",
    summary="Keeps, from an early layer on, the visual tokens that the last prompt token attends to most.",
    reference="FastV, arXiv 2403.06764",
    reads_text=True,
    compact=False,
    parameters=EarlyLayerParameters,
    schedule=schedule,
    prune=prune,
)
