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
import torch
from torch import Tensor

__all__ = ["auto_budget_importance", "peak_clarity", "target_coverage"]

_BREADTH: Final = 0.1
# Share of the unpruned accuracy reached at each coverage, mean of the easy and the crowded tuning images.
_TARGETS: Final = (0.928, 0.945, 0.958, 0.964, 0.974, 0.98, 0.985, 1.0)
_COVERAGES: Final = (0.70, 0.75, 0.78, 0.80, 0.82, 0.84, 0.93, 1.0)


def peak_clarity(scores: Tensor) -> Tensor:
    """Clarity of the highest peak of N scores, 0 to 1.

    It is the z-score of the highest score divided by 2 sqrt(2 ln N). The highest z-score of N random values is about
    sqrt(2 ln N), so random scores have a clarity of about a half.

    Args:
        scores: relevance scores of the patches, [N]. Leading batch axes are allowed.
    """
    count = scores.shape[-1]
    if count < 2:
        return torch.zeros_like(scores[..., 0])
    deviation = scores - scores.mean(dim=-1, keepdim=True)
    spread = deviation.square().mean(dim=-1).sqrt()
    z_score = deviation.amax(dim=-1) / spread.clamp_min(torch.finfo(spread.dtype).tiny)
    clarity = (z_score / (2 * math.sqrt(2 * math.log(count)))).clamp_max(1)
    return torch.where(spread > 0, clarity, 0)


def auto_budget_importance(saliency: Tensor, peaks: Tensor, clarity: Tensor) -> Tensor:
    """Importance of each patch for the automatic budget.

    Args:
        saliency: weights of saliency that sum to 1, [N].
        peaks: weights of the question that sum to 1, [N].
        clarity: share of the question in the two, 0 to 1, without axes.

    Returns:
        Weights that sum to 1, [N]. Leading batch axes are allowed.
    """
    clarity = clarity[..., None]
    mixed = (1 - clarity) * saliency + clarity * peaks
    return (1 - _BREADTH) * mixed + _BREADTH / saliency.shape[-1]


def target_coverage(target: float) -> float:
    """Covered share of the importance at which the tuning questions reached `target` of the unpruned accuracy."""
    return float(np.interp(target, _TARGETS, _COVERAGES))
