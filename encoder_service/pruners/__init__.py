"""The pruners by name. To add one: write its file, add its line."""

from __future__ import annotations

from typing import Any, Final

from encoder_service.pruners import cls, desap, none, random
from encoder_service.pruners.base import Pruner

__all__ = ["PRUNERS"]

PRUNERS: Final[dict[str, Pruner[Any]]] = {
    pruner.name: pruner
    for pruner in (
        none.PRUNER,
        desap.PRUNER,
        cls.PRUNER,
        random.PRUNER,
    )
}
