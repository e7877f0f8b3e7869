"""Selection of the words of a long question that patches are compared with."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from fovea.modeling.numerics import top_k

__all__ = ["words_by_eos_attention"]

_MAX_WORDS: Final = 32


def words_by_eos_attention(eos_attention: Tensor, is_word: Tensor) -> Tensor:
    """Positions of the words with at least the mean attention of EOS; at most the 32 highest.

    This is CalibCLIP's token importance without its corpus frequency term.

    Args:
        eos_attention: attention of EOS to each position, [T].
        is_word: mask of words, [T] bool; False for BOS and EOS, True for at least one position.

    Returns:
        Positions in 0..T-1, ascending, at least one.
    """
    words = is_word.nonzero().squeeze(1)
    attention = eos_attention[words]
    above_mean = torch.where(attention >= attention.mean(), attention, -torch.inf)
    # Rounding of the mean may leave no word above it when all are equal.
    count = min(max(int(above_mean.isfinite().sum()), 1), _MAX_WORDS)
    return words[top_k(above_mean, count)]
