"""PyramidDrop (Xing et al., CVPR 2025, arXiv 2410.17247): a share of the visual tokens goes at each of three layers.

Of n tokens the three stages leave floor(n lambda), floor(n lambda^2) and floor(n lambda^3). The published settings for
averages of 1/3, 2/9 and 1/9 prune at layers 2, 8 and 16 of 32 with lambda 0.5596, 0.4197 and 0.19 (the last by the
authors, the others solved for the average in the same form). Ranking asks the layer that is about to run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fovea.modeling.numerics import top_k
from llm_service.pruners.base import Choice, LlmPruner, Moment, PrunerParameters, Stage
from llm_service.pruners.schedule import between, scaled_layers
from llm_service.pruners.selection import last_token_attention

__all__ = ["PRUNER", "PyramidDropParameters", "prune"]

_LAYERS: Final = (2, 8, 16)
_LAMBDAS: Final = ((0, (0,)), (64 / 576, (0.19,)), (128 / 576, (0.4197,)), (192 / 576, (0.5596,)), (1, (1,)))


@dataclass(frozen=True, slots=True)
class PyramidDropParameters(PrunerParameters):
    """Nothing of its own."""


def schedule(share: float, num_visual: int, num_layers: int, params: PyramidDropParameters) -> tuple[Stage, ...]:
    """Three prunes; the budget is the average over the layers. At least one token is left."""
    (factor,) = between(share, _LAMBDAS)
    return tuple(
        Stage(layer, max(1, math.floor(num_visual * factor**power)))
        for power, layer in enumerate(scaled_layers(_LAYERS, num_layers), start=1)
    )


def prune(moment: Moment, keep: int, params: PyramidDropParameters) -> Choice:
    """The tokens that the last prompt token would attend to most in the layer that comes."""
    return Choice(top_k(last_token_attention(moment.upcoming, moment), keep))


PRUNER = LlmPruner(
    name="pyramiddrop",
    summary="Drops visual tokens in three steps, each time those that the last prompt token attends to least.",
    reference="PyramidDrop, arXiv 2410.17247",
    reads_text=True,
    compact=True,
    parameters=PyramidDropParameters,
    schedule=schedule,
    prune=prune,
)
