"""Coder in C: the library that setup.py builds from rans.c. Without a C compiler there is none."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from pathlib import Path
from typing import Final

import numpy as np

from fovea.wire.rans.stream import Bytes, checked_words, ends_too_early, not_exact, num_states
from fovea.wire.rans.tables import FrequencyTables

__all__ = ["decode", "encode", "is_available", "load_library"]

_LIBRARIES: Final = ("librans.so", "librans.dll")
_OUTSIDE_TABLES: Final = -1
_ENDS_TOO_EARLY: Final = -2
_NOT_EXACT: Final = -3

# `int64_t` are counts, the others are addresses of buffers; see rans.c.
_ENCODE_ARGUMENTS: Final = (c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_void_p)
_DECODE_ARGUMENTS: Final = (
    *(c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_void_p),
    *(c_int64, c_int64, c_void_p, c_int64, c_void_p),
)


def load_library(folder: Path) -> ctypes.CDLL | None:
    """Library in a folder; None where it was not built, or was built for another machine or from other sources."""
    for path in (folder / name for name in _LIBRARIES):
        if not path.exists():
            continue
        try:
            library = ctypes.CDLL(str(path))
            encode_function, decode_function = library.fovea_rans_encode, library.fovea_rans_decode
        except (OSError, AttributeError):
            return None
        encode_function.argtypes, encode_function.restype = _ENCODE_ARGUMENTS, c_int64
        decode_function.argtypes, decode_function.restype = _DECODE_ARGUMENTS, c_int64
        return library
    return None


_library: Final = load_library(Path(__file__).parent)


def is_available() -> bool:
    """Whether the library is there."""
    return _library is not None


def encode(symbols: Bytes, table: Bytes, tables: FrequencyTables) -> bytes:
    """Stream of symbols, see `coders.encode`."""
    assert _library is not None
    count = num_states(len(symbols))
    states = np.empty(count, np.uint32)
    words = np.empty(len(symbols), "<u2")
    num_words = _library.fovea_rans_encode(
        symbols.ctypes.data,
        table.ctypes.data,
        len(symbols),
        tables.ranges.ctypes.data,
        *tables.frequencies.shape,
        states.ctypes.data,
        count,
        words.ctypes.data,
    )
    if num_words < 0:
        raise _outside(tables)
    return states.astype("<u4").tobytes() + words[len(words) - num_words :].tobytes()


def decode(data: bytes, table: Bytes, tables: FrequencyTables) -> Bytes:
    """Symbols of a stream, see `coders.decode`."""
    assert _library is not None
    count = num_states(len(table))
    num_words = checked_words(len(data), count)
    symbols = np.empty(len(table), np.uint8)
    states = np.empty(count, np.uint32)
    result = _library.fovea_rans_decode(
        data,
        num_words,
        table.ctypes.data,
        len(table),
        tables.ranges.ctypes.data,
        tables.symbols.ctypes.data,
        *tables.frequencies.shape,
        states.ctypes.data,
        count,
        symbols.ctypes.data,
    )
    if result == _OUTSIDE_TABLES:
        raise _outside(tables)
    if result == _ENDS_TOO_EARLY:
        raise ends_too_early()
    if result == _NOT_EXACT:
        raise not_exact()
    return symbols


def _outside(tables: FrequencyTables) -> IndexError:
    return IndexError(f"a symbol or the index of its table is not in tables of shape {tables.frequencies.shape}")
