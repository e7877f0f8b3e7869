"""Which words of a long question to compare with."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from fovea.modeling.numerics import top_k

__all__ = ["words_by_eos_attention"]

_MOST_WORDS: Final = 32


def words_by_eos_attention(eos_attention: Tensor, is_word: Tensor) -> Tensor:
    """Positions of the words that EOS attends to at least as much as to the mean word; the 32 best at most.

    After CalibCLIP's token importance, without its corpus frequency term.

    Args:
        eos_attention: [T], attention of EOS to each position.
        is_word: [T], False for BOS and EOS; at least one True.

    Returns:
        Positions in 0..T-1, ascending, at least one.
    """
    words = is_word.nonzero().squeeze(1)
    attention = eos_attention[words]
    enough = torch.where(attention >= attention.mean(), attention, -torch.inf)
    # Rounding of the mean must not leave nobody when all words are alike.
    count = min(max(int(enough.isfinite().sum()), 1), _MOST_WORDS)
    return words[top_k(enough, count)]
