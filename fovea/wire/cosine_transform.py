"""The cosine transform along a picture's tokens, which are neighbours: both codecs use it."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_TRANSFORMED_TOKENS", "cosines"]

MAX_TRANSFORMED_TOKENS: Final = 1024  # bounds the work of a receiver


@functools.lru_cache(maxsize=32)
def cosines(rows: int) -> npt.NDArray[np.float32]:
    """[rows, rows] orthonormal DCT-II: coefficient by position (Ahmed, Natarajan & Rao 1974)."""
    angles = np.pi * np.outer(np.arange(rows), np.arange(rows) + 0.5) / rows
    matrix = np.cos(angles) * np.sqrt(2 / rows)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, np.float32)
