"""Coder in numpy, vectorized over the states: one iteration for each of at most 512 symbols of a state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fovea.wire.rans.stream import MIN_STATE, SHIFT, TOTAL, Bytes, checked_words, ends_too_early, not_exact, num_states
from fovea.wire.rans.tables import FrequencyTables

__all__ = ["decode", "encode"]


def encode(symbols: Bytes, table: Bytes, tables: FrequencyTables) -> bytes:
    """Stream of symbols, see `coders.encode`."""
    count = num_states(len(symbols))
    frequency, start = tables.frequencies[table, symbols], tables.starts[table, symbols]
    limit = frequency << (32 - SHIFT)
    states = np.full(count, MIN_STATE, np.int64)
    words: list[npt.NDArray[np.int64]] = []
    for start_index in reversed(range(0, len(symbols), count)):
        step = slice(start_index, start_index + count)
        state = states[: len(frequency[step])]
        full = state >= limit[step]
        words.append(state[full][::-1] & 0xFFFF)
        state = np.where(full, state >> 16, state)
        quotient, remainder = np.divmod(state, frequency[step])
        states[: len(state)] = (quotient << SHIFT) + remainder + start[step]
    flat = np.concatenate([*words, np.empty(0, np.int64)])[::-1]
    return states.astype("<u4").tobytes() + flat.astype("<u2").tobytes()


def decode(data: bytes, table: Bytes, tables: FrequencyTables) -> Bytes:
    """Symbols of a stream, see `coders.decode`."""
    count = num_states(len(table))
    num_words = checked_words(len(data), count)
    states = np.frombuffer(data, "<u4", count).astype(np.int64)
    words = np.frombuffer(data, "<u2", num_words, 4 * count).astype(np.int64)
    symbols = np.empty(len(table), np.uint8)
    frequencies, starts = tables.frequencies.reshape(-1), tables.starts.reshape(-1)
    tables_of_symbols = table.astype(np.int64)
    first_slot, first_symbol = tables_of_symbols * TOTAL, tables_of_symbols * tables.frequencies.shape[1]
    used = 0
    for start in range(0, len(table), count):
        step = slice(start, start + count)
        state = states[: len(first_slot[step])]
        slot = state & (TOTAL - 1)
        symbol = tables.symbols[first_slot[step] + slot]
        symbols[step] = symbol
        index = symbol + first_symbol[step]
        state = frequencies[index] * (state >> SHIFT) + slot - starts[index]
        empty = (state < MIN_STATE).nonzero()[0]
        if used + len(empty) > num_words:
            raise ends_too_early()
        state[empty] = (state[empty] << 16) | words[used : used + len(empty)]
        used += len(empty)
        states[: len(state)] = state
    if used != num_words or (states != MIN_STATE).any():
        raise not_exact()
    return symbols
