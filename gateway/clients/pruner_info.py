"""What the services say of their pruners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from google.protobuf import json_format

from fovea.errors import InternalError
from fovea.v1 import pruner_pb2

__all__ = ["PrunerInfo", "PrunerParameterInfo"]


@dataclass(frozen=True)
class PrunerParameterInfo:
    """A parameter of a pruner; the type is number, integer, boolean or string."""

    name: str
    type: str
    default: Any
    description: str

    @classmethod
    def of(cls, message: pruner_pb2.PrunerParameter, service: str) -> Self:
        """As `service` (a name for people) describes it. All numbers travel as doubles.

        Raises:
            InternalError: The default is not of the type.
        """
        try:
            default = json_format.MessageToDict(message.default)
            if default is not None:
                default = {"integer": int, "number": float}.get(message.type, lambda value: value)(default)
        except (ValueError, TypeError, OverflowError):
            raise InternalError(f"the {service} describes a parameter whose default is not of its type") from None
        return cls(message.name, message.type, default, message.description)


@dataclass(frozen=True)
class PrunerInfo:
    """A pruner that a service offers."""

    name: str
    side: str
    summary: str
    reference: str
    reads_text: bool
    parameters: tuple[PrunerParameterInfo, ...]
    chooses_budget: bool = False

    @classmethod
    def of(cls, message: pruner_pb2.PrunerInfo, service: str) -> Self:
        """As `service` (a name for people) describes it.

        Raises:
            InternalError: A default is not of its type.
        """
        return cls(
            name=message.name,
            side=message.side,
            summary=message.summary,
            reference=message.reference,
            reads_text=message.reads_text,
            parameters=tuple(PrunerParameterInfo.of(one, service) for one in message.parameters),
            chooses_budget=message.chooses_budget,
        )
