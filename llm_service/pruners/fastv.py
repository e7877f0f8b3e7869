"""FastV (Chen et al., ECCV 2024, arXiv 2403.06764): after two layers, what the last token attends to is enough.

Two published readings of the score exist: the paper speaks of attention averaged over all tokens, the released code
takes the last prompt token. This is the code's. The choice is made once, in the prefill; decoding never prunes.
"""

from __future__ import annotations

from fovea.modeling.numerics import top_k
from llm_service.pruners.base import Choice, LlmPruner, Moment
from llm_service.pruners.early import EarlyParameters, schedule
from llm_service.pruners.selection import last_token_attention

__all__ = ["PRUNER", "prune"]


def prune(moment: Moment, keep: int, params: EarlyParameters) -> Choice:
    """The tokens that the last prompt token attends to most in the layer before."""
    return Choice(top_k(last_token_attention(moment.previous, moment), keep), doubles_cache=params.fidelity)


PRUNER = LlmPruner(
    name="fastv",
    summary="Keeps, from an early layer on, the visual tokens that the last prompt token attends to most.",
    reference="FastV, arXiv 2403.06764",
    reads_text=True,
    compact=False,
    parameters=EarlyParameters,
    schedule=schedule,
    prune=prune,
)
