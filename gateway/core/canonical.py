"""Canonical digest of a protobuf message: equal for equal contents, in every process and version of protobuf.

Serialized bytes are not canonical: the order of map entries is undefined, and versions of protobuf differ. The digest
is that of a walk over the fields that are set, in the order of their numbers. Each field gives its number, and each
value its type and length, so that no two contents give the same bytes to the hash. Map entries are sorted by key. A
number is its value: 1 and 1.0 are equal.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

__all__ = ["canonical_digest"]

_MAX_KEPT: Final = 1024
_MAX_KEPT_BYTES: Final = 4096
"""Size of the longest message whose digest is kept, which bounds their memory."""


def canonical_digest(message: Message) -> bytes:
    """SHA-256 of the contents of a message.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    # Equal bytes are equal contents. Unequal ones may be, too, and are digested again.
    serialized = message.SerializeToString()
    if len(serialized) > _MAX_KEPT_BYTES:
        return _digest(message)
    return _kept_digest(type(message), serialized)  # type: ignore[arg-type]  # a class can be hashed


@functools.lru_cache(_MAX_KEPT)
def _kept_digest(kind: type[Message], serialized: bytes) -> bytes:
    """Digest of a message by its bytes: a question that is asked again has the same ones."""
    return _digest(kind.FromString(serialized))


def _digest(message: Message) -> bytes:
    pieces: list[bytes] = []
    _write(message, pieces)
    return hashlib.sha256(b"".join(pieces)).digest()


def _write(value: object, pieces: list[bytes]) -> None:
    """Appends the bytes of a value: its type, then each content after its length."""
    scalar = _SCALARS.get(type(value))
    if scalar is not None:
        pieces.append(scalar(value))
    elif isinstance(value, Message):
        pieces.append(b"message;")
        for field, field_value in value.ListFields():
            pieces.append(_field(field.number))
            _write(field_value, pieces)
        pieces.append(b"end;")
    elif isinstance(value, Mapping):
        pieces.append(b"map;" + _sized(b"%d" % len(value)))
        for key in sorted(value):
            _write(key, pieces)
            _write(value[key], pieces)
    else:
        items = list(value)  # type: ignore[call-overload]  # a repeated field, the only kind left
        if type(items[0]) is int:  # thousands of token ids
            pieces.append(b"integers;" + _sized(",".join(map(str, items)).encode()))
            return
        pieces.append(b"list;" + _sized(b"%d" % len(items)))
        for item in items:
            _write(item, pieces)


@functools.cache
def _field(number: int) -> bytes:
    return b"field;" + _sized(b"%d" % number)


def _sized(content: bytes) -> bytes:
    return b"%d:%b" % (len(content), content)


def _number(value: float) -> bytes:
    """Shortest decimal form that is exact; whole numbers without a fraction, and one zero."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return str(int(value) if value == int(value) else value).encode()


_SCALARS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    bool: lambda value: b"bool;" + _sized(b"1" if value else b"0"),
    int: lambda value: b"number;" + _sized(_number(value)),
    float: lambda value: b"number;" + _sized(_number(value)),
    str: lambda value: b"string;" + _sized(value.encode()),
    bytes: lambda value: b"bytes;" + _sized(value),
}
"""Functions from a value that has no parts to its bytes, by its type."""
