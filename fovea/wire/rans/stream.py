"""Layout of a stream, and what is refused about one. Both coders have it from here."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fovea.errors import InvalidRequest

__all__ = ["MIN_STATE", "SHIFT", "TOTAL", "Bytes", "Ints", "checked_words", "ends_too_early", "not_exact", "num_states"]

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.integer[Any]]

SHIFT: Final = 14

TOTAL: Final = 1 << SHIFT
"""Sum of the frequencies of a table."""

MIN_STATE: Final = 1 << 16
"""Smallest state between two symbols, and the state before the first symbol is written."""

# Limits the iterations of the coder in numpy, for hostile streams too. A state costs about 2 bytes.
_MAX_SYMBOLS_PER_STATE: Final = 512


def num_states(num_symbols: int) -> int:
    """Number of states L: the smallest power of two with at most 512 symbols per state."""
    return int(1 << max(0, -(-num_symbols // _MAX_SYMBOLS_PER_STATE) - 1).bit_length())


def checked_words(num_bytes: int, num_states: int) -> int:
    """Number of words of a stream.

    Raises:
        InvalidRequest: `num_bytes` are not the states and some words.
    """
    if num_bytes < 4 * num_states or num_bytes % 2:
        raise InvalidRequest(f"the coded stream of {num_bytes} bytes is not {num_states} states and words of 2 bytes")
    return num_bytes // 2 - 2 * num_states


def ends_too_early() -> InvalidRequest:
    """Error of a stream that has too few words."""
    return InvalidRequest("the coded stream ends too early")


def not_exact() -> InvalidRequest:
    """Error of a stream that has too many words, or whose states do not end where writing begins."""
    return InvalidRequest("the coded stream is not exactly the symbols that the shape says")
