"""Registry of pruners by name: those of this package, and those of other packages in the group `fovea.llm_pruners`."""

from __future__ import annotations

from typing import Final

from fovea.pruner_registry import PrunerRegistry
from llm_service.pruners import adaptprune, fastv, flowcut, pyramiddrop, sparsevlm, v2drop
from llm_service.pruners.base import AnyLlmPruningMethod, LlmPruningMethod

__all__ = ["PRUNERS"]

PRUNERS: Final[PrunerRegistry[AnyLlmPruningMethod]] = PrunerRegistry(
    (
        fastv.PRUNER,
        sparsevlm.PRUNER,
        sparsevlm.PLUS,
        pyramiddrop.PRUNER,
        v2drop.PRUNER,
        adaptprune.PRUNER,
        flowcut.PRUNER,
    ),
    group="fovea.llm_pruners",
    kind=LlmPruningMethod,
    side="LLM service",
)
