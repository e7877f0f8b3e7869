"""Entropy coding with fixed tables: range asymmetric numeral systems (Duda 2014), many states side by side for numpy.

Symbol i belongs to state i mod L. A state is an integer of 2^16 to 2^32 - 1; what does not fit it is written in words
of 16 bits. The stream is the L states as uint32, then the words as a reader takes them, all little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.errors import InvalidRequest

__all__ = ["TOTAL", "Tables", "decode", "encode", "num_states"]

Ints = npt.NDArray[np.int64]

TOTAL: Final = 1 << 14  # what the frequencies of a table sum up to
_SHIFT: Final = 14
_LEAST: Final = 1 << 16  # state
_MOST_STEPS: Final = 512  # bounds the loops in Python, of a hostile stream too; a state costs about 2 bytes


@dataclass(frozen=True, eq=False)
class Tables:
    """How often each symbol comes.

    Attributes:
        frequencies: [T, S], at least 1, each row sums up to `TOTAL`.
    """

    frequencies: Ints

    @cached_property
    def starts(self) -> Ints:
        """[T, S], sum of the frequencies before."""
        return np.cumsum(self.frequencies, axis=1) - self.frequencies

    @cached_property
    def bits(self) -> npt.NDArray[np.float64]:
        """[T, S] that a symbol takes."""
        return _SHIFT - np.log2(self.frequencies)

    @cached_property
    def entropy(self) -> npt.NDArray[np.float64]:
        """[T] bits a symbol takes on average."""
        return np.asarray((self.frequencies / TOTAL * self.bits).sum(axis=1))

    @cached_property
    def symbols(self) -> npt.NDArray[np.int64]:
        """[T * TOTAL], the symbol at each place of each table."""
        return np.concatenate([np.repeat(np.arange(len(row)), row) for row in self.frequencies])


def num_states(num_symbols: int) -> int:
    """L: the least power of two with which no state has more than 512 symbols."""
    return int(1 << max(0, -(-num_symbols // _MOST_STEPS) - 1).bit_length())


def encode(symbols: Ints, table: Ints, tables: Tables) -> bytes:
    """The stream of [n] symbols, each by the table of that number."""
    count = num_states(len(symbols))
    frequency, start = tables.frequencies[table, symbols], tables.starts[table, symbols]
    room = frequency << (32 - _SHIFT)
    states = np.full(count, _LEAST, np.int64)
    words: list[Ints] = []
    for at in reversed(range(0, len(symbols), count)):
        step = slice(at, at + count)
        state = states[: len(frequency[step])]
        full = state >= room[step]
        words.append(state[full][::-1] & 0xFFFF)
        state = np.where(full, state >> 16, state)
        quotient, remainder = np.divmod(state, frequency[step])
        states[: len(state)] = (quotient << _SHIFT) + remainder + start[step]
    flat = np.concatenate([*words, np.empty(0, np.int64)])[::-1]
    return states.astype("<u4").tobytes() + flat.astype("<u2").tobytes()


def decode(data: bytes, table: Ints, tables: Tables) -> Ints:
    """The [n] symbols of a stream.

    Raises:
        InvalidRequest: It is not the stream of n symbols, nothing more or less.
    """
    count = num_states(len(table))
    if len(data) < 4 * count or len(data) % 2:
        raise InvalidRequest(f"the coded stream of {len(data)} bytes is not {count} states and words of 2 bytes")
    states = np.frombuffer(data, "<u4", count).astype(np.int64)
    words = np.frombuffer(data, "<u2", offset=4 * count).astype(np.int64)
    symbols = np.empty(len(table), np.int64)
    width = tables.frequencies.shape[1]
    frequencies, starts = tables.frequencies.reshape(-1), tables.starts.reshape(-1)
    place, row, used = table * TOTAL, table * width, 0
    for at in range(0, len(table), count):
        step = slice(at, at + count)
        state = states[: len(place[step])]
        slot = state & (TOTAL - 1)
        symbol = tables.symbols[place[step] + slot]
        symbols[step] = symbol
        symbol = symbol + row[step]
        state = frequencies[symbol] * (state >> _SHIFT) + slot - starts[symbol]
        empty = (state < _LEAST).nonzero()[0]
        if used + len(empty) > len(words):
            raise InvalidRequest("the coded stream ends too early")
        state[empty] = (state[empty] << 16) | words[used : used + len(empty)]
        used += len(empty)
        states[: len(state)] = state
    if used != len(words) or (states != _LEAST).any():
        raise InvalidRequest("the coded stream is not exactly the symbols that the shape says")
    return symbols
