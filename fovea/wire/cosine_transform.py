"""Cosine transform along the tokens of an image, whose neighbours are alike. Both codecs use it."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_TRANSFORMED_TOKENS", "cosines"]

MAX_TRANSFORMED_TOKENS: Final = 1024
"""Most tokens of a transformed tensor, a limit on the work of a receiver."""


@functools.lru_cache(maxsize=32)
def cosines(num_tokens: int) -> npt.NDArray[np.float32]:
    """Matrix of the orthonormal DCT-II, [coefficient, position] (Ahmed, Natarajan & Rao 1974)."""
    angles = np.pi * np.outer(np.arange(num_tokens), np.arange(num_tokens) + 0.5) / num_tokens
    matrix = np.cos(angles) * np.sqrt(2 / num_tokens)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, np.float32)
