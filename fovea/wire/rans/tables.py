"""Frequency tables that a stream is coded with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.wire.rans.stream import SHIFT, TOTAL, Bytes

__all__ = ["FrequencyTables"]

_MAX_EXTENT: Final = 256


@dataclass(frozen=True, eq=False)
class FrequencyTables:
    """Frequencies of S symbols in T tables.

    Attributes:
        frequencies: frequency of each symbol in each table, [T, S], both at most 256; at least 1, and each table sums
            up to `TOTAL`.

    Raises:
        ValueError: the frequencies are not such tables.
    """

    frequencies: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        tables = np.array(self.frequencies, np.int64)  # a copy, which stays as it was checked
        if tables.ndim != 2 or max(tables.shape) > _MAX_EXTENT:
            raise ValueError(f"frequency tables of shape {tables.shape} are not [T, S], both at most {_MAX_EXTENT}")
        if (tables < 1).any() or (tables.sum(axis=1) != TOTAL).any():
            raise ValueError(f"frequencies are not at least 1, or those of a table do not sum up to {TOTAL}")
        tables.setflags(write=False)
        object.__setattr__(self, "frequencies", tables)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Sum of the frequencies of the symbols before, [T, S]."""
        return np.cumsum(self.frequencies, axis=1) - self.frequencies

    @cached_property
    def bits(self) -> npt.NDArray[np.float64]:
        """Bits of a symbol, [T, S]."""
        return SHIFT - np.log2(self.frequencies)

    @cached_property
    def entropy(self) -> npt.NDArray[np.float64]:
        """Mean bits of a symbol, [T]."""
        return np.asarray((self.frequencies / TOTAL * self.bits).sum(axis=1))

    @cached_property
    def symbols(self) -> Bytes:
        """Symbol of each slot of each table, [T * TOTAL]."""
        symbols = np.tile(np.arange(self.frequencies.shape[1], dtype=np.uint8), len(self.frequencies))
        return np.repeat(symbols, self.frequencies.reshape(-1))

    @cached_property
    def ranges(self) -> npt.NDArray[np.uint32]:
        """Start and frequency of each symbol in each table, [T, S, 2]."""
        return np.stack([self.starts, self.frequencies], axis=2).astype(np.uint32)
