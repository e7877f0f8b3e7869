"""Description of a pruner for clients: the `PrunerInfo` message of both services."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import struct_pb2

from fovea.parameters import Parameter, Value
from fovea.v1 import pruner_pb2

__all__ = ["describe_pruner"]


def describe_pruner(
    name: str,
    *,
    side: str,
    summary: str,
    reference: str,
    reads_text: bool,
    parameters: Iterable[Parameter],
    chooses_budget: bool = False,
) -> pruner_pb2.PrunerInfo:
    """Description of a pruner as a message.

    Args:
        name: name of the pruner in requests.
        side: "encoder" or "llm".
        summary: one sentence on the method.
        reference: paper of the method.
        reads_text: whether the choice depends on the question.
        parameters: parameters of the pruner.
        chooses_budget: whether the pruner can choose the number of kept tokens itself.
    """
    return pruner_pb2.PrunerInfo(
        name=name,
        side=side,
        summary=summary,
        reference=reference,
        reads_text=reads_text,
        chooses_budget=chooses_budget,
        parameters=[
            pruner_pb2.PrunerParameter(
                name=item.name, type=item.type, default=_value(item.default), description=item.description
            )
            for item in parameters
        ],
    )


def _value(value: Value) -> struct_pb2.Value:
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
    return struct_pb2.Value(number_value=value)
