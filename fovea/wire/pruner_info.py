"""The `PrunerInfo` message of both services: a `PrunerSpec` as a message, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast, get_args

from google.protobuf import json_format, struct_pb2

from fovea.errors import InternalError
from fovea.parameters import Parameter, Value
from fovea.pruner_spec import PrunerSpec, Side
from fovea.v1 import pruner_pb2

__all__ = ["read_specs", "write_spec"]


def write_spec(spec: PrunerSpec) -> pruner_pb2.PrunerInfo:
    """The message with a pruner's description."""
    return pruner_pb2.PrunerInfo(
        name=spec.name,
        side=spec.side,
        summary=spec.summary,
        reference=spec.reference,
        reads_text=spec.reads_text,
        chooses_budget=spec.chooses_budget,
        parameters=[
            pruner_pb2.PrunerParameter(
                name=item.name, type=item.type, default=_value(item.default), description=item.description
            )
            for item in spec.parameters
        ],
    )


def read_specs(messages: Iterable[pruner_pb2.PrunerInfo], service: str) -> tuple[PrunerSpec, ...]:
    """The pruners' descriptions in messages. A pruner of a side that only later versions know is left out.

    Args:
        messages: descriptions of pruners.
        service: name of the service that sent them, for errors.

    Raises:
        InternalError: the default of a parameter is not of its type.
    """
    return tuple(_read_spec(message, service) for message in messages if message.side in get_args(Side))


def _read_spec(message: pruner_pb2.PrunerInfo, service: str) -> PrunerSpec:
    return PrunerSpec(
        name=message.name,
        side=cast(Side, message.side),
        summary=message.summary,
        reference=message.reference,
        reads_text=message.reads_text,
        chooses_budget=message.chooses_budget,
        parameters=tuple(_read_parameter(parameter, service) for parameter in message.parameters),
    )


def _read_parameter(message: pruner_pb2.PrunerParameter, service: str) -> Parameter:
    """The parameter in a message, whose numbers are all doubles."""
    try:
        default = json_format.MessageToDict(message.default)
        if default is not None:
            default = {"integer": int, "number": float}.get(message.type, lambda value: value)(default)
    except (ValueError, TypeError, OverflowError):
        raise InternalError(f"the {service} describes a parameter whose default is not of its type") from None
    return Parameter(message.name, message.type, default, message.description)


def _value(value: Value) -> struct_pb2.Value:
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
    return struct_pb2.Value(number_value=value)
