"""The pruners inside the language model, by name. A new one is a file in this folder and a line in PRUNERS."""

from __future__ import annotations

from typing import Final

from llm_service.pruners import adaptprune, fastv, flowcut, pyramiddrop, sparsevlm, v2drop
from llm_service.pruners.base import AnyLlmPruningMethod

__all__ = ["PRUNERS"]

PRUNERS: Final[dict[str, AnyLlmPruningMethod]] = {
    pruner.name: pruner
    for pruner in (
        fastv.PRUNER,
        sparsevlm.PRUNER,
        sparsevlm.PLUS,
        pyramiddrop.PRUNER,
        v2drop.PRUNER,
        adaptprune.PRUNER,
        flowcut.PRUNER,
    )
}
