"""Visual tokens among words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["splice"]


def splice(words: Tensor, placeholders: npt.NDArray[np.int64], visuals: Sequence[Tensor]) -> Tensor:
    """Puts each visual's rows in the place of the one row that stands for it.

    Args:
        words: [T, ...].
        placeholders: Ascending places in it, one for each of `visuals`.
        visuals: [K_i, ...].

    Returns:
        [T + sum of (K_i - 1), ...].
    """
    parts: list[Tensor] = []
    start = 0
    for place, rows in zip(placeholders.tolist(), visuals, strict=True):
        parts += [words[start:place], rows]
        start = place + 1
    return torch.cat([*parts, words[start:]])
