"""The coders by name, and the one that writes and reads streams."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import numpy as np

from fovea.wire.rans import native_coder, numpy_coder
from fovea.wire.rans.stream import Bytes, Ints
from fovea.wire.rans.tables import FrequencyTables

__all__ = ["available_coders", "coder_name", "decode", "encode", "using_coder"]


class _Coder(Protocol):
    def encode(self, symbols: Bytes, table: Bytes, tables: FrequencyTables) -> bytes: ...

    def decode(self, data: bytes, table: Bytes, tables: FrequencyTables) -> Bytes: ...


# Fastest first.
_CODERS: Final[Mapping[str, _Coder]] = {
    **({"native": native_coder} if native_coder.is_available() else {}),
    "numpy": numpy_coder,
}
_used = next(iter(_CODERS))


def available_coders() -> list[str]:
    """Names of the coders that this installation has: `native` if its library was built, and `numpy`."""
    return list(_CODERS)


def coder_name() -> str:
    """Name of the coder in use: `native` where there is one."""
    return _used


@contextlib.contextmanager
def using_coder(name: str) -> Iterator[None]:
    """Context in which this process uses one of `available_coders`, for tests and comparisons: streams are the same.

    Raises:
        KeyError: this installation does not have the coder.
    """
    global _used
    if name not in _CODERS:
        raise KeyError(name)
    before, _used = _used, name
    try:
        yield
    finally:
        _used = before


def encode(symbols: Ints, table: Ints, tables: FrequencyTables) -> bytes:
    """Stream of symbols.

    Args:
        symbols: symbols, [n]; quickest in uint8.
        table: index of each symbol's table, [n]; quickest in uint8.
        tables: frequency tables.

    Raises:
        IndexError: a symbol or an index is not in the tables.
    """
    if len(symbols) != len(table):
        raise ValueError(f"{len(symbols)} symbols have {len(table)} tables")
    return _CODERS[_used].encode(_as_bytes(symbols), _as_bytes(table), tables)


def decode(data: bytes, table: Ints, tables: FrequencyTables) -> Bytes:
    """Symbols of a stream, [n].

    Args:
        data: stream.
        table: index of each symbol's table, [n]; quickest in uint8.
        tables: frequency tables.

    Raises:
        InvalidRequest: `data` is not exactly a stream of n symbols.
        IndexError: an index is not in the tables.
    """
    return _CODERS[_used].decode(data, _as_bytes(table), tables)


def _as_bytes(values: Ints) -> Bytes:
    """Values in one contiguous array of bytes."""
    if values.dtype != np.uint8 and values.size and not 0 <= int(values.min()) <= int(values.max()) <= 255:
        raise IndexError("a symbol or the index of its table is not 0 to 255")
    return np.ascontiguousarray(values, np.uint8)
