"""What the services say of their pruners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from google.protobuf import json_format

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
    def of(cls, message: pruner_pb2.PrunerParameter) -> Self:
        """As the services describe it. All numbers travel as doubles."""
        default = json_format.MessageToDict(message.default)
        if default is not None:
            default = {"integer": int, "number": float}.get(message.type, lambda value: value)(default)
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
    def of(cls, message: pruner_pb2.PrunerInfo) -> Self:
        """As the services describe it."""
        return cls(
            name=message.name,
            side=message.side,
            summary=message.summary,
            reference=message.reference,
            reads_text=message.reads_text,
            parameters=tuple(map(PrunerParameterInfo.of, message.parameters)),
            chooses_budget=message.chooses_budget,
        )
