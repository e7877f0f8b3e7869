"""What the services say of their pruners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from google.protobuf import json_format

from fovea.v1 import pruner_pb2

__all__ = ["PrunerInfo"]


@dataclass(frozen=True)
class PrunerInfo:
    """A pruner that a service offers; parameters are (name, default, description)."""

    name: str
    side: str
    summary: str
    reference: str
    reads_text: bool
    parameters: tuple[tuple[str, Any, str], ...]
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
            parameters=tuple((p.name, json_format.MessageToDict(p.default), p.description) for p in message.parameters),
            chooses_budget=message.chooses_budget,
        )
