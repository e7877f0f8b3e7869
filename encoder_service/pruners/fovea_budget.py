"""How many tokens a picture and a question need, for a pruner that may choose: until enough of what matters is covered.

A question that points clearly at something needs its tokens alone; one that points nowhere, such as "What do you see?",
needs the picture. So here the question's part in the importance follows how clearly it points. Constants are calibrated
in the small world of `lab/` (docs/adr/0008).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from torch import Tensor

__all__ = ["coverage_for", "own_budget_importance", "peak_clarity"]

_BREADTH: Final = 0.1
# Reached at these coverages on easy and crowded tuning pictures, mean of the two.
_TARGETS: Final = (0.928, 0.945, 0.958, 0.964, 0.974, 0.98, 0.985, 1.0)
_COVERAGES: Final = (0.70, 0.75, 0.78, 0.80, 0.82, 0.84, 0.93, 1.0)


def peak_clarity(scores: Tensor) -> float:
    """How clearly one patch stands out, 0 to 1.

    The best one's distance from the mean in standard deviations, in units of twice sqrt(2 ln N), about what the best of
    N chance values reaches: chance gives a half.

    Args:
        scores: [N].
    """
    deviation = scores - scores.mean()
    spread = float(deviation.square().mean().sqrt())
    if len(scores) < 2 or spread == 0:
        return 0.0
    return min(float(deviation.max()) / spread / (2 * math.sqrt(2 * math.log(len(scores)))), 1.0)


def own_budget_importance(saliency: Tensor, peaks: Tensor, clarity: float) -> Tensor:
    """What has to be covered: [N] weights that sum to 1 if `saliency` and `peaks` do."""
    return (1 - _BREADTH) * ((1 - clarity) * saliency + clarity * peaks) + _BREADTH / len(saliency)


def coverage_for(target: float) -> float:
    """The covered share of the importance at which the tuning questions reached `target` of the unpruned accuracy."""
    return float(np.interp(target, _TARGETS, _COVERAGES))
