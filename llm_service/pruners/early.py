"""What FastV and AdaptPrune share: one prune at the input of an early layer."""

from __future__ import annotations

from dataclasses import dataclass

from fovea.parameters import flag, integer
from llm_service.pruners.base import PrunerParameters, Stage
from llm_service.pruners.schedule import scaled_layers

__all__ = ["EarlyParameters", "schedule"]


@dataclass(frozen=True, slots=True)
class EarlyParameters(PrunerParameters):
    layer: int = integer(
        2,
        minimum=1,
        maximum=31,
        description="a whole number, 1 to 31; tokens are dropped at the input of this layer of 32 (scaled in others)",
    )
    fidelity: bool = flag(
        False,
        description="true or false; true repeats a slip of the released code, which runs the layer before the prune"
        " twice and leaves the prompt in its cache two times, so that decoding attends to duplicates",
    )


def schedule(share: float, num_visual: int, num_layers: int, params: EarlyParameters) -> tuple[Stage, ...]:
    """One prune; the budget is what it leaves."""
    (layer,) = scaled_layers([params.layer], num_layers)
    return (Stage(layer, max(1, round(share * num_visual))),)
