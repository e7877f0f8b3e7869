"""What a serialized message may hold, counted in its bytes: a few kilobytes can become gigabytes of objects.

The caps are those of proto/fovea/v1/limits.proto. The walk stops at the first one passed and steps over strings and
bytes without a look, so its time is bounded by the caps, not by the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

from fovea.errors import InvalidRequest, MalformedRequest
from fovea.v1 import limits_pb2

__all__ = ["MAX_DEPTH", "MAX_FIELDS", "MAX_NUMBERS", "MAX_STRUCT_ITEMS", "check_sizes", "malformed"]

MAX_DEPTH: Final = 32
MAX_FIELDS: Final = 32_768
MAX_NUMBERS: Final = 4_194_304
MAX_STRUCT_ITEMS: Final = 4096

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPE_BITS: Final = 3
_VARINT_BYTES: Final = 10  # most of one number
_CONTINUED: Final = 128  # a byte of a number after which another follows
_BYTES_OF: Final = {_FIXED32: 4, _FIXED64: 8}
_STRUCT: Final = "google.protobuf."
_WIRE_TYPES: Final = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_STRING: _DELIMITED,
    FieldDescriptor.TYPE_BYTES: _DELIMITED,
    FieldDescriptor.TYPE_MESSAGE: _DELIMITED,
}


@dataclass(frozen=True)
class _Field:
    """What the walk must know of a field.

    Attributes:
        max_items: Most occurrences in one message; None where any number is as good as one.
        wire_type: protobuf wire type of one item.
        message: type of the messages in it; None for numbers, strings and bytes.
    """

    name: str
    max_items: int | None
    wire_type: int
    message: Descriptor | None

    def path(self, parent: str) -> str:
        """How a caller knows it; what is inside of a Struct has no name of its own."""
        if not self.name:
            return parent
        return f"{parent}.{self.name}" if parent else self.name


@cache
def _fields(message: Descriptor) -> dict[int, _Field]:
    proto = DescriptorProto()
    message.CopyToProto(proto)
    return {one.number: _field(one, message) for one in proto.field}


def _field(one: FieldDescriptorProto, message: Descriptor) -> _Field:
    inner = message.fields_by_number[one.number].message_type
    is_struct = message.full_name.startswith(_STRUCT)
    max_items: int | None
    if one.label == FieldDescriptorProto.LABEL_REPEATED:
        option: Any = limits_pb2.max_items
        max_items = MAX_STRUCT_ITEMS if is_struct else int(one.options.Extensions[option])
    else:  # messages that come twice are merged, and their own repeated fields would add up
        max_items = None if inner is None else 1
    return _Field("" if is_struct else one.name, max_items, _WIRE_TYPES.get(one.type, _VARINT), inner)


def check_sizes(data: bytes, message: Any) -> None:
    """Walks over a serialized message, without making anything of it.

    Args:
        data: The bytes.
        message: Descriptor of its type.

    Raises:
        InvalidRequest: the message passes a cap.
        MalformedRequest: the bytes are no message at all.
    """
    _Walk(data).message(0, len(data), message, "")


@dataclass
class _Walk:
    """One pass over `data`, and what is left of the caps on the whole message."""

    data: bytes
    fields_left: int = MAX_FIELDS
    numbers_left: int = MAX_NUMBERS

    def message(self, at: int, end: int, message: Descriptor, path: str, depth: int = 1) -> None:
        """The message in `data[at:end]`, which is the field `path`."""
        if depth > MAX_DEPTH:
            raise _refusal(path, f"messages nest at most {MAX_DEPTH} deep")
        fields = _fields(message)
        counts: dict[int, int] = {}
        while at < end:
            at, number, wire_type = self._tag(at, end, path)
            start, at = self._value(at, end, wire_type)
            known = fields.get(number)
            if known is None or wire_type not in (known.wire_type, _DELIMITED):
                continue
            inner = known.path(path)
            counts[number] = counts.get(number, 0) + self._items(start, at, wire_type, known, inner)
            if known.max_items is not None and counts[number] > known.max_items:
                raise _too_many(inner, known)
            if known.message is not None:
                self.message(start, at, known.message, inner, depth + 1)

    def _tag(self, at: int, end: int, path: str) -> tuple[int, int, int]:
        """What follows a tag, the tag's field number, and its wire type."""
        self.fields_left -= 1
        if self.fields_left < 0:
            raise _refusal(path, f"a message has at most {MAX_FIELDS} fields, those inside of it counted")
        tag, at = self._varint(at, end)
        if tag < 1 << _WIRE_TYPE_BITS:
            raise malformed()
        return at, tag >> _WIRE_TYPE_BITS, tag & ((1 << _WIRE_TYPE_BITS) - 1)

    def _value(self, at: int, end: int, wire_type: int) -> tuple[int, int]:
        """Start and end of what follows a tag."""
        start = at
        if wire_type == _VARINT:
            at = self._varint(at, end)[1]
        elif wire_type == _DELIMITED:
            length, start = self._varint(at, end)
            at = start + length
        elif wire_type in _BYTES_OF:
            at += _BYTES_OF[wire_type]
        else:  # a group, or no wire type
            raise malformed()
        if at > end:
            raise malformed()
        return start, at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number and where it ends."""
        if at < end and self.data[at] < _CONTINUED:
            return self.data[at], at + 1
        value = 0
        for shift, byte in enumerate(self.data[at : min(end, at + _VARINT_BYTES)]):
            value |= (byte & (_CONTINUED - 1)) << 7 * shift
            if byte < _CONTINUED:
                return value, at + shift + 1
        raise malformed()

    def _items(self, start: int, end: int, wire_type: int, known: _Field, path: str) -> int:
        """Items in one occurrence of a field: several where they are packed numbers."""
        if known.wire_type == _DELIMITED or wire_type != _DELIMITED:
            return 1
        if known.max_items is not None and end - start > _VARINT_BYTES * known.max_items:
            raise _too_many(path, known)
        if known.wire_type == _VARINT:
            packed = np.frombuffer(self.data, np.uint8, end - start, start)
            items = int(np.count_nonzero(packed < _CONTINUED))
        else:
            items = (end - start) // _BYTES_OF[known.wire_type]
        self.numbers_left -= items
        if self.numbers_left < 0:
            raise _refusal(path, f"a message has at most {MAX_NUMBERS} packed numbers in all")
        return items


def _too_many(path: str, known: _Field) -> InvalidRequest:
    return _refusal(path, f"at most {known.max_items} of it are accepted")


def _refusal(path: str, accepted: str) -> InvalidRequest:
    return InvalidRequest(f"{path or 'the message'} is too large: {accepted}", param=path or None)


def malformed() -> MalformedRequest:
    """What is said of bytes that cannot be read."""
    return MalformedRequest("the bytes are not a message of the type that is expected here")
