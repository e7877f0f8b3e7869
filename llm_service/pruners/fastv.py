"""FastV (Chen et al., ECCV 2024, arXiv 2403.06764): after two layers, what the last token attends to is enough.

Two published readings of the score exist: the paper speaks of attention averaged over all tokens, the released code
takes the last prompt token. This is the code's. The choice is made once, in the prefill; decoding never prunes.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_service.pruners.base import Choice, LlmPruner, Moment, PrunerParameters, Stage
from llm_service.pruners.parameters import integer
from llm_service.pruners.schedule import scaled_layers
from llm_service.pruners.selection import last_token_attention, top_k

__all__ = ["PRUNER", "FastvParameters", "prune"]


@dataclass(frozen=True, slots=True)
class FastvParameters(PrunerParameters):
    layer: int = integer(
        2,
        minimum=1,
        maximum=31,
        description="a whole number, 1 to 31; tokens are dropped at the input of this layer of 32 (scaled in others)",
    )


def schedule(share: float, num_visual: int, num_layers: int, params: FastvParameters) -> tuple[Stage, ...]:
    """One prune; the budget is what it leaves."""
    (layer,) = scaled_layers([params.layer], num_layers)
    return (Stage(layer, max(1, round(share * num_visual))),)


def prune(moment: Moment, keep: int, params: FastvParameters) -> Choice:
    """The tokens that the last prompt token attends to most in the layer before."""
    return Choice(top_k(last_token_attention(moment.previous, moment), keep))


PRUNER = LlmPruner(
    name="fastv",
    summary="Keeps, from an early layer on, the visual tokens that the last prompt token attends to most.",
    reference="FastV, arXiv 2403.06764",
    reads_text=True,
    compact=False,
    parameters=FastvParameters,
    schedule=schedule,
    prune=prune,
)
