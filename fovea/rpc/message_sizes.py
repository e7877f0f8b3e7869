"""Size limits of a serialized message, checked in its bytes: a few kilobytes can become gigabytes of objects.

The limits are those of proto/fovea/v1/limits.proto. The walk stops at the first limit that is exceeded and skips the
content of strings and bytes, so the limits bound its time, whatever the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

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
_MAX_VARINT_BYTES: Final = 10
_CONTINUATION_BIT: Final = 128  # set in every byte of a varint but the last
_COUNTED_BYTES: Final = 4096  # packed bytes whose continuation bits are counted at once
_CONTINUATION_BITS: Final = int.from_bytes(bytes([_CONTINUATION_BIT]) * _COUNTED_BYTES, "little")
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
    """A field of a message type.

    Attributes:
        name: name of the field; empty inside of a google.protobuf.Struct.
        max_items: most occurrences in one message; None for no limit (the last occurrence of a single value counts).
        wire_type: protobuf wire type of one item.
        message: type of the messages in the field; None for numbers, strings and bytes.
    """

    name: str
    max_items: int | None
    wire_type: int
    message: Descriptor | None

    def path(self, parent: str) -> str:
        """Dotted path of the field in the message; the parts of a Struct have the path of the Struct."""
        if not self.name:
            return parent
        return f"{parent}.{self.name}" if parent else self.name


@cache
def _fields(message: Descriptor) -> dict[int, _Field]:
    proto = DescriptorProto()
    message.CopyToProto(proto)
    return {field.number: _field(field, message) for field in proto.field}


def _field(field: FieldDescriptorProto, message: Descriptor) -> _Field:
    inner = message.fields_by_number[field.number].message_type
    is_struct = message.full_name.startswith(_STRUCT)
    max_items: int | None
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        option: Any = limits_pb2.max_items
        max_items = MAX_STRUCT_ITEMS if is_struct else int(field.options.Extensions[option])
    else:  # protobuf merges messages that come twice, and their own repeated fields would add up
        max_items = None if inner is None else 1
    return _Field("" if is_struct else field.name, max_items, _WIRE_TYPES.get(field.type, _VARINT), inner)


def check_sizes(data: bytes, message: Any) -> None:
    """Checks the sizes of a serialized message without parsing it into objects.

    Args:
        data: serialized message.
        message: descriptor of the message's type.

    Raises:
        InvalidRequest: the message exceeds a limit.
        MalformedRequest: the bytes are not a message.
    """
    _Walk(data).message(0, len(data), message, "")


@dataclass
class _Walk:
    """One pass over a serialized message.

    Attributes:
        data: serialized message.
        fields_left: fields that the message may still have.
        numbers_left: packed numbers that the message may still have.
    """

    data: bytes
    fields_left: int = MAX_FIELDS
    numbers_left: int = MAX_NUMBERS

    def message(self, at: int, end: int, message: Descriptor, path: str, depth: int = 1) -> None:
        """Checks the message in `data[at:end]`, which is the field `path`."""
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
        """Offset after the tag at `at`, the tag's field number, and its wire type."""
        self.fields_left -= 1
        if self.fields_left < 0:
            raise _refusal(path, f"a message has at most {MAX_FIELDS} fields, nested ones included")
        tag, at = self._varint(at, end)
        if tag < 1 << _WIRE_TYPE_BITS:
            raise malformed()
        return at, tag >> _WIRE_TYPE_BITS, tag & ((1 << _WIRE_TYPE_BITS) - 1)

    def _value(self, at: int, end: int, wire_type: int) -> tuple[int, int]:
        """Start and end of the value after a tag."""
        start = at
        if wire_type == _VARINT:
            at = self._varint(at, end)[1]
        elif wire_type == _DELIMITED:
            length, start = self._varint(at, end)
            at = start + length
        elif wire_type in _BYTES_OF:
            at += _BYTES_OF[wire_type]
        else:  # a group, or an unknown wire type
            raise malformed()
        if at > end:
            raise malformed()
        return start, at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A varint, and the offset after it."""
        if at < end and self.data[at] < _CONTINUATION_BIT:
            return self.data[at], at + 1
        value = 0
        for shift, byte in enumerate(self.data[at : min(end, at + _MAX_VARINT_BYTES)]):
            value |= (byte & (_CONTINUATION_BIT - 1)) << 7 * shift
            if byte < _CONTINUATION_BIT:
                return value, at + shift + 1
        raise malformed()

    def _items(self, start: int, end: int, wire_type: int, known: _Field, path: str) -> int:
        """Number of items in one occurrence of a field: several for packed numbers, else one."""
        if known.wire_type == _DELIMITED or wire_type != _DELIMITED:
            return 1
        if known.max_items is not None and end - start > _MAX_VARINT_BYTES * known.max_items:
            raise _too_many(path, known)
        if known.wire_type == _VARINT:
            items = self._num_varints(start, end)
            if end - start > _MAX_VARINT_BYTES * items:
                raise malformed()
        else:
            items = (end - start) // _BYTES_OF[known.wire_type]
        self.numbers_left -= items
        if self.numbers_left < 0:
            raise _refusal(path, f"a message has at most {MAX_NUMBERS} packed numbers in all")
        return items

    def _num_varints(self, start: int, end: int) -> int:
        """Number of varints in `data[start:end]`, which is the number of its bytes without a continuation bit."""
        parts = (self.data[at : min(end, at + _COUNTED_BYTES)] for at in range(start, end, _COUNTED_BYTES))
        return end - start - sum((int.from_bytes(part, "little") & _CONTINUATION_BITS).bit_count() for part in parts)


def _too_many(path: str, known: _Field) -> InvalidRequest:
    return _refusal(path, f"at most {known.max_items} accepted")


def _refusal(path: str, accepted: str) -> InvalidRequest:
    return InvalidRequest(f"{path or 'the message'} is too large: {accepted}", param=path or None)


def malformed() -> MalformedRequest:
    """The error of bytes that cannot be parsed."""
    return MalformedRequest("the bytes are not a message of the type that is expected here")
