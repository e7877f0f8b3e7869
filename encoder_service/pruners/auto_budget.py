"""Automatic budget of the `fovea` pruner: the number of tokens that an image and a question need.

Tokens are added until they cover a given share of the importance. A question about one object needs the tokens of that
object; a question such as "What do you see?" needs the whole image. The weight of the question in the importance
therefore follows how clearly its relevance scores peak. The constants are calibrated on the synthetic images of `lab/`
(docs/adr/0008).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from torch import Tensor

__all__ = ["auto_budget_importance", "peak_clarity", "target_coverage"]

_BREADTH: Final = 0.1
# Share of the unpruned accuracy reached at each coverage, mean of the easy and the crowded tuning images.
_TARGETS: Final = (0.928, 0.945, 0.958, 0.964, 0.974, 0.98, 0.985, 1.0)
_COVERAGES: Final = (0.70, 0.75, 0.78, 0.80, 0.82, 0.84, 0.93, 1.0)


def peak_clarity(scores: Tensor) -> float:
    """Clarity of the highest peak of N scores, 0 to 1.

    It is the z-score of the highest score divided by 2 sqrt(2 ln N). The highest z-score of N random values is about
    sqrt(2 ln N), so random scores have a clarity of about a half.

    Args:
        scores: relevance scores of the patches, [N].
    """
    deviation = scores - scores.mean()
    spread = float(deviation.square().mean().sqrt())
    if len(scores) < 2 or spread == 0:
        return 0.0
    return min(float(deviation.max()) / spread / (2 * math.sqrt(2 * math.log(len(scores)))), 1.0)


def auto_budget_importance(saliency: Tensor, peaks: Tensor, clarity: float) -> Tensor:
    """Importance of each patch for the automatic budget.

    Args:
        saliency: weights of saliency that sum to 1, [N].
        peaks: weights of the question that sum to 1, [N].
        clarity: share of the question in the two, 0 to 1.

    Returns:
        Weights that sum to 1, [N].
    """
    return (1 - _BREADTH) * ((1 - clarity) * saliency + clarity * peaks) + _BREADTH / len(saliency)


def target_coverage(target: float) -> float:
    """Covered share of the importance at which the tuning questions reached `target` of the unpruned accuracy."""
    return float(np.interp(target, _TARGETS, _COVERAGES))
