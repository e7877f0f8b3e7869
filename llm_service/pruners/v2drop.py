"""V2Drop (CVPR 2026): drops the tokens that a layer changes least, without attention and without text.

In a causal model with the image before the question, the states of visual tokens do not depend on the question, and
neither does the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fovea.modeling.numerics import at_least_float32, top_k
from llm_service.pruners.base import LlmPruningMethod, PrunerParameters, PruningContext, PruningResult, Stage
from llm_service.pruners.schedule import interpolate, scaled_layers

__all__ = ["PRUNER", "V2DropParameters", "num_kept", "prune"]

_LAYERS: Final = (3, 17, 22)
# Share of the remaining tokens that each stage keeps: the paper's settings for averages of 1/9, 2/9 and 1/3, the
# released file's (0.5, 0.5, 0; an average of 202.8 of 576), then up to no pruning, the last stage rising last.
_RATIOS: Final = (
    (0, (0, 0, 0)),
    (64 / 576, (0.05, 0.05, 0)),
    (128 / 576, (0.28, 0.25, 0)),
    (192 / 576, (0.5, 0.3, 0)),
    (202.8 / 576, (0.5, 0.5, 0)),
    (22 / 32, (1, 1, 0)),
    (1, (1, 1, 1)),
)


@dataclass(frozen=True, slots=True)
class V2DropParameters(PrunerParameters):
    """No parameters besides the common ones."""


def num_kept(count: int, ratio: float) -> int:
    """Number of tokens that a stage keeps of `count`; at least one, even where the paper drops all."""
    return max(1, math.floor(count * ratio))


def schedule(share: float, num_visual: int, num_layers: int, params: V2DropParameters) -> tuple[Stage, ...]:
    """Three stages; the budget is the average over the layers."""
    stages, count = [], num_visual
    for layer, ratio in zip(scaled_layers(_LAYERS, num_layers), interpolate(share, _RATIOS), strict=True):
        count = num_kept(count, ratio)
        stages.append(Stage(layer, count))
    return tuple(stages)


def prune(context: PruningContext, keep: int, params: V2DropParameters) -> PruningResult:
    """Keeps the tokens that the previous layer has changed most (L2 norm of the difference)."""
    after = at_least_float32(context.hidden_states[context.visual_indices])
    before = at_least_float32(context.previous_hidden_states[context.visual_indices])
    return PruningResult(top_k((after - before).norm(dim=-1), keep))


PRUNER = LlmPruningMethod(
    name="v2drop",
    summary="Keeps, in three stages, the visual tokens that the previous layer has changed most.",
    reference="V2Drop, CVPR 2026",
    reads_text=False,
    compact=False,
    parameters=V2DropParameters,
    schedule=schedule,
    prune=prune,
)
