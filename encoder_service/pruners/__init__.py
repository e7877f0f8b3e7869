"""Registry of pruners by name. A new pruner needs its module and one line here."""

from __future__ import annotations

from typing import Any, Final

from encoder_service.pruners import (
    cls,
    desap,
    flowcut,
    fovea,
    hired,
    holov,
    none,
    prumerge,
    prumerge_plus,
    random,
    uniform,
    visionzip,
)
from encoder_service.pruners.base import Pruner

__all__ = ["PRUNERS"]

PRUNERS: Final[dict[str, Pruner[Any]]] = {
    pruner.name: pruner
    for pruner in (
        none.PRUNER,
        desap.PRUNER,
        visionzip.PRUNER,
        prumerge.PRUNER,
        prumerge_plus.PRUNER,
        flowcut.PRUNER,
        holov.PRUNER,
        hired.PRUNER,
        cls.PRUNER,
        uniform.PRUNER,
        random.PRUNER,
        fovea.PRUNER,
    )
}
