"""V2Drop (CVPR 2026): what a layer hardly changes is dropped. No attention is looked at, and no text.

In a causal model with the picture before the question, the states of visual tokens do not depend on the question, so
neither does the choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fovea.modeling.numerics import at_least_float32, top_k
from llm_service.pruners.base import Choice, LlmPruner, Moment, PrunerParameters, Stage
from llm_service.pruners.schedule import between, scaled_layers

__all__ = ["PRUNER", "V2DropParameters", "num_kept", "prune"]

_LAYERS: Final = (3, 17, 22)
# What each step keeps of the tokens before it: the paper's settings for averages of 1/9, 2/9 and 1/3, the released
# file's (0.5, 0.5, 0; an average of 202.8 of 576), and on to no pruning, the last step giving way last.
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
    """Nothing of its own."""


def num_kept(count: int, ratio: float) -> int:
    """What a step keeps of `count` tokens; one token always stays, also where the paper drops all."""
    return max(1, math.floor(count * ratio))


def schedule(share: float, num_visual: int, num_layers: int, params: V2DropParameters) -> tuple[Stage, ...]:
    """Three prunes; the budget is the average over the layers."""
    stages, count = [], num_visual
    for layer, ratio in zip(scaled_layers(_LAYERS, num_layers), between(share, _RATIOS), strict=True):
        count = num_kept(count, ratio)
        stages.append(Stage(layer, count))
    return tuple(stages)


def prune(moment: Moment, keep: int, params: V2DropParameters) -> Choice:
    """The tokens that the layer before has changed most (L2 norm of the difference)."""
    after, before = (at_least_float32(states[moment.visual]) for states in (moment.hidden, moment.previous_hidden))
    return Choice(top_k((after - before).norm(dim=-1), keep))


PRUNER = LlmPruner(
    name="v2drop",
    summary="Keeps, in three steps, the visual tokens that the layer before has changed most.",
    reference="V2Drop, CVPR 2026",
    reads_text=False,
    compact=False,
    parameters=V2DropParameters,
    schedule=schedule,
    prune=prune,
)
