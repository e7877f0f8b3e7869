"""Expansion of placeholder tokens into visual tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["expand_placeholders"]


def expand_placeholders(text: Tensor, placeholders: npt.NDArray[np.int64], visual: Sequence[Tensor]) -> Tensor:
    """Replaces each placeholder by the visual tokens of its image or video.

    Args:
        text: [T, ...] values of all tokens, placeholders included.
        placeholders: Ascending indices of the placeholders in `text`, one for each of `visual`.
        visual: Values [K_i, ...] of the visual tokens of each image or video.

    Returns:
        [T + sum of (K_i - 1), ...].
    """
    parts: list[Tensor] = []
    start = 0
    for placeholder, values in zip(placeholders.tolist(), visual, strict=True):
        parts += [text[start:placeholder], values]
        start = placeholder + 1
    return torch.cat([*parts, text[start:]])
