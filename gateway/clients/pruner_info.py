"""Descriptions of pruners, as the services report them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from google.protobuf import json_format

from fovea.errors import InternalError
from fovea.v1 import pruner_pb2

__all__ = ["PrunerInfo", "PrunerParameterInfo"]


@dataclass(frozen=True)
class PrunerParameterInfo:
    """A parameter of a pruner; `type` is number, integer, boolean or string."""

    name: str
    type: str
    default: Any
    description: str

    @classmethod
    def of(cls, message: pruner_pb2.PrunerParameter, service: str) -> Self:
        """The parameter in `message`, whose numbers are all doubles.

        Args:
            message: Description of the parameter.
            service: Name of the service, for messages.

        Raises:
            InternalError: The default is not of the parameter's type.
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
    """A pruner of a service; see `gateway.http.schemas.pruners` for the fields."""

    name: str
    side: str
    summary: str
    reference: str
    reads_text: bool
    parameters: tuple[PrunerParameterInfo, ...]
    chooses_budget: bool = False

    @classmethod
    def of(cls, message: pruner_pb2.PrunerInfo, service: str) -> Self:
        """The pruner in `message`.

        Args:
            message: Description of the pruner.
            service: Name of the service, for messages.

        Raises:
            InternalError: The default of a parameter is not of its type.
        """
        return cls(
            name=message.name,
            side=message.side,
            summary=message.summary,
            reference=message.reference,
            reads_text=message.reads_text,
            parameters=tuple(PrunerParameterInfo.of(parameter, service) for parameter in message.parameters),
            chooses_budget=message.chooses_budget,
        )
