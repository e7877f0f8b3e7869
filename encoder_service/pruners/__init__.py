"""Registry of pruners by name: those of this package, and those of other packages in the group `fovea.pruners`."""

from __future__ import annotations

from typing import Any, Final

from encoder_service.pruners import (
    cdpruner,
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
from fovea.pruner_registry import PrunerRegistry

__all__ = ["PRUNERS"]

PRUNERS: Final[PrunerRegistry[Pruner[Any]]] = PrunerRegistry(
    (
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
        cdpruner.PRUNER,
    ),
    group="fovea.pruners",
    kind=Pruner,
    side="encoder service",
)
