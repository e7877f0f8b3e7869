"""Selection of the words of a long question that patches are compared with."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

__all__ = ["words_by_eos_attention"]

_MAX_WORDS: Final = 32


def words_by_eos_attention(eos_attention: Tensor, is_word: Tensor) -> Tensor:
    """Mask of the words with at least the mean attention of EOS; at most the 32 highest, at least one.

    This is CalibCLIP's token importance without its corpus frequency term.

    Args:
        eos_attention: attention of EOS to each position, [T].
        is_word: mask of words, [T] bool; False for BOS, EOS and padding, True for at least one position.

    Returns:
        [T] bool. Of words with equal attention the earlier ones are taken. Leading batch axes are allowed.
    """
    attention = torch.where(is_word, eos_attention, 0)
    mean = attention.sum(dim=-1, keepdim=True) / is_word.sum(dim=-1, keepdim=True)
    above_mean = is_word & (attention >= mean)
    order = torch.where(is_word, eos_attention, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    rank = order.argsort(dim=-1)
    # Rounding of the mean may leave no word above it when all are equal.
    return ((rank < _MAX_WORDS) & above_mean) | (rank == 0)
