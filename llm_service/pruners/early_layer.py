"""Parameters and schedule of FastV and AdaptPrune: one stage at the input of an early layer."""

from __future__ import annotations

from dataclasses import dataclass

from fovea.parameters import flag, integer
from llm_service.pruners.base import PrunerParameters, Stage
from llm_service.pruners.schedule import scaled_layers

__all__ = ["EarlyLayerParameters", "schedule"]


@dataclass(frozen=True, slots=True)
class EarlyLayerParameters(PrunerParameters):
    """Parameters of a method with one stage at an early layer."""

    layer: int = integer(
        2,
        minimum=1,
        maximum=31,
        description="a whole number, 1 to 31; tokens are dropped at the input of this layer of 32 (scaled to the"
        " model's depth)",
    )
    fidelity: bool = flag(
        False,
        description="true or false; true repeats a defect of the released code, which runs the layer before the stage"
        " twice and keeps the prompt in its cache twice, so that decoding attends to duplicates",
    )


def schedule(share: float, num_visual: int, num_layers: int, params: EarlyLayerParameters) -> tuple[Stage, ...]:
    """One stage; the budget is what it keeps."""
    (layer,) = scaled_layers([params.layer], num_layers)
    return (Stage(layer, max(1, round(share * num_visual))),)
