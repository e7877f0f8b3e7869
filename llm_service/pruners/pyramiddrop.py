"""PyramidDrop (Xing et al., CVPR 2025, arXiv 2410.17247): a share of the visual tokens is dropped at three layers.

Of n tokens the three stages keep floor(n lambda), floor(n lambda^2) and floor(n lambda^3). The published settings for
averages of 1/3, 2/9 and 1/9 prune at layers 2, 8 and 16 of 32 with lambda 0.5596, 0.4197 and 0.19. The last lambda is
the authors'; the others are solved for the average in the same form. Scores are the attention of the upcoming layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fovea.modeling.numerics import top_k
from llm_service.pruners.attention import last_token_attention
from llm_service.pruners.base import LlmPruningMethod, PrunerParameters, PruningContext, PruningResult, Stage
from llm_service.pruners.schedule import interpolate, scaled_layers

__all__ = ["PRUNER", "PyramidDropParameters", "prune"]

_LAYERS: Final = (2, 8, 16)
_LAMBDAS: Final = ((0, (0,)), (64 / 576, (0.19,)), (128 / 576, (0.4197,)), (192 / 576, (0.5596,)), (1, (1,)))


@dataclass(frozen=True, slots=True)
class PyramidDropParameters(PrunerParameters):
    """No parameters besides the common ones."""


def schedule(share: float, num_visual: int, num_layers: int, params: PyramidDropParameters) -> tuple[Stage, ...]:
    """Three stages; the budget is the average over the layers. At least one token is kept."""
    (factor,) = interpolate(share, _LAMBDAS)
    return tuple(
        Stage(layer, max(1, math.floor(num_visual * factor**power)))
        for power, layer in enumerate(scaled_layers(_LAYERS, num_layers), start=1)
    )


def prune(context: PruningContext, keep: int, params: PyramidDropParameters) -> PruningResult:
    """Keeps the tokens with the most attention of the last prompt token in the upcoming layer."""
    return PruningResult(top_k(last_token_attention(context.upcoming, context), keep))


PRUNER = LlmPruningMethod(
    name="pyramiddrop",
    summary="Drops visual tokens in three stages, each time those that the last prompt token attends to least.",
    reference="PyramidDrop, arXiv 2410.17247",
    reads_text=True,
    compact=True,
    parameters=PyramidDropParameters,
    schedule=schedule,
    prune=prune,
)
