"""Entropy coding with fixed tables: range asymmetric numeral systems (rANS, Duda 2014), vectorized over L states.

Symbol i belongs to state i mod L. A state is an integer from 2^16 to 2^32 - 1. Bits that do not fit a state are written
as words of 16 bits. The stream is the L states as uint32, then the words in the order of decoding, all little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.errors import InvalidRequest

__all__ = ["TOTAL", "FrequencyTables", "decode", "encode", "num_states"]

Ints = npt.NDArray[np.int64]

TOTAL: Final = 1 << 14
"""Sum of the frequencies of a table."""

_SHIFT: Final = 14
_MIN_STATE: Final = 1 << 16
# Limits the iterations in Python, for hostile streams too. A state costs about 2 bytes.
_MAX_SYMBOLS_PER_STATE: Final = 512


@dataclass(frozen=True, eq=False)
class FrequencyTables:
    """Frequencies of S symbols in T tables.

    Attributes:
        frequencies: frequency of each symbol in each table, [T, S]; at least 1, and each table sums up to `TOTAL`.
    """

    frequencies: Ints

    @cached_property
    def starts(self) -> Ints:
        """Sum of the frequencies of the symbols before, [T, S]."""
        return np.cumsum(self.frequencies, axis=1) - self.frequencies

    @cached_property
    def bits(self) -> npt.NDArray[np.float64]:
        """Bits of a symbol, [T, S]."""
        return _SHIFT - np.log2(self.frequencies)

    @cached_property
    def entropy(self) -> npt.NDArray[np.float64]:
        """Mean bits of a symbol, [T]."""
        return np.asarray((self.frequencies / TOTAL * self.bits).sum(axis=1))

    @cached_property
    def symbols(self) -> npt.NDArray[np.int64]:
        """Symbol of each slot of each table, [T * TOTAL]."""
        return np.concatenate([np.repeat(np.arange(len(row)), row) for row in self.frequencies])


def num_states(num_symbols: int) -> int:
    """Number of states L: the smallest power of two with at most 512 symbols per state."""
    return int(1 << max(0, -(-num_symbols // _MAX_SYMBOLS_PER_STATE) - 1).bit_length())


def encode(symbols: Ints, table: Ints, tables: FrequencyTables) -> bytes:
    """Stream of symbols.

    Args:
        symbols: symbols, [n].
        table: index of each symbol's table, [n].
        tables: frequency tables.
    """
    count = num_states(len(symbols))
    frequency, start = tables.frequencies[table, symbols], tables.starts[table, symbols]
    limit = frequency << (32 - _SHIFT)
    states = np.full(count, _MIN_STATE, np.int64)
    words: list[Ints] = []
    for start_index in reversed(range(0, len(symbols), count)):
        step = slice(start_index, start_index + count)
        state = states[: len(frequency[step])]
        full = state >= limit[step]
        words.append(state[full][::-1] & 0xFFFF)
        state = np.where(full, state >> 16, state)
        quotient, remainder = np.divmod(state, frequency[step])
        states[: len(state)] = (quotient << _SHIFT) + remainder + start[step]
    flat = np.concatenate([*words, np.empty(0, np.int64)])[::-1]
    return states.astype("<u4").tobytes() + flat.astype("<u2").tobytes()


def decode(data: bytes, table: Ints, tables: FrequencyTables) -> Ints:
    """Symbols of a stream, [n].

    Args:
        data: stream.
        table: index of each symbol's table, [n].
        tables: frequency tables.

    Raises:
        InvalidRequest: `data` is not exactly a stream of n symbols.
    """
    count = num_states(len(table))
    if len(data) < 4 * count or len(data) % 2:
        raise InvalidRequest(f"the coded stream of {len(data)} bytes is not {count} states and words of 2 bytes")
    states = np.frombuffer(data, "<u4", count).astype(np.int64)
    words = np.frombuffer(data, "<u2", offset=4 * count).astype(np.int64)
    symbols = np.empty(len(table), np.int64)
    width = tables.frequencies.shape[1]
    frequencies, starts = tables.frequencies.reshape(-1), tables.starts.reshape(-1)
    first_slot, first_symbol, used = table * TOTAL, table * width, 0
    for start in range(0, len(table), count):
        step = slice(start, start + count)
        state = states[: len(first_slot[step])]
        slot = state & (TOTAL - 1)
        symbol = tables.symbols[first_slot[step] + slot]
        symbols[step] = symbol
        symbol = symbol + first_symbol[step]
        state = frequencies[symbol] * (state >> _SHIFT) + slot - starts[symbol]
        empty = (state < _MIN_STATE).nonzero()[0]
        if used + len(empty) > len(words):
            raise InvalidRequest("the coded stream ends too early")
        state[empty] = (state[empty] << 16) | words[used : used + len(empty)]
        used += len(empty)
        states[: len(state)] = state
    if used != len(words) or (states != _MIN_STATE).any():
        raise InvalidRequest("the coded stream is not exactly the symbols that the shape says")
    return symbols
