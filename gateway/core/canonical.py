"""Canonical digest of a protobuf message: equal for equal contents, in every process and version of protobuf.

Serialized bytes are not canonical: the order of map entries is undefined, and versions of protobuf differ. The digest
is that of a walk over the fields that are set, in the order of their numbers. Each field gives its number, and each
value its type and length, so that no two contents give the same bytes to the hash. Map entries are sorted by key. A
number is its value: 1 and 1.0 are equal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

from google.protobuf.message import Message

__all__ = ["canonical_digest"]


def canonical_digest(message: Message) -> bytes:
    """SHA-256 of the contents of a message.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    digest = hashlib.sha256()
    for piece in _walk(message):
        digest.update(piece)
    return digest.digest()


def _walk(value: object) -> Iterator[bytes]:
    match value:
        case Message():
            yield from _sized(b"message", [])
            for field, field_value in value.ListFields():
                yield from _sized(b"field", [str(field.number).encode()])
                yield from _walk(field_value)
            yield from _sized(b"end", [])
        case bool():
            yield from _sized(b"bool", [b"1" if value else b"0"])
        case int() | float():
            yield from _sized(b"number", [_number(value)])
        case str():
            yield from _sized(b"string", [value.encode()])
        case bytes():
            yield from _sized(b"bytes", [value])
        case Mapping():
            yield from _sized(b"map", [str(len(value)).encode()])
            for key in sorted(value):
                yield from _walk(key)
                yield from _walk(value[key])
        case _:
            items = list(value)  # type: ignore[call-overload]  # a repeated field, the only kind left
            if type(items[0]) is int:  # thousands of token ids
                yield from _sized(b"integers", [",".join(map(str, items)).encode()])
                return
            yield from _sized(b"list", [str(len(items)).encode()])
            for item in items:
                yield from _walk(item)


def _sized(kind: bytes, contents: list[bytes]) -> Iterator[bytes]:
    """The type of a value, then each content after its length."""
    yield kind + b";"
    for content in contents:
        yield b"%d:" % len(content)
        yield content


def _number(value: float) -> bytes:
    """Shortest decimal form that is exact; whole numbers without a fraction, and one zero."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return str(int(value) if value == int(value) else value).encode()
