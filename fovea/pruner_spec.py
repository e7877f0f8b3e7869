"""Description of a pruner, as services report it, the gateway lists it and the documentation's tables repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias

from fovea.parameters import Parameter

__all__ = ["NO_PRUNING", "PrunerSpec", "Side"]

Side: TypeAlias = Literal["encoder", "llm"]

NO_PRUNING: Final = "none"
"""Name of the encoder's pruner that keeps all visual tokens and takes no budget."""


@dataclass(frozen=True, slots=True)
class PrunerSpec:
    """Pruner: a method that chooses which visual tokens are kept."""

    __pydantic_config__: ClassVar = {"use_attribute_docstrings": True}  # for the API's schema

    name: str
    """Name for `pruner` (side `encoder`) or for `llm_pruner` (side `llm`)."""

    side: Side
    """Side on which the pruner runs: encoder service or language model."""

    summary: str
    """Description in one or two sentences."""

    reference: str
    """Paper or source of the method; empty for a baseline."""

    reads_text: bool
    """Whether the choice depends on the question."""

    chooses_budget: bool
    """Whether the pruner accepts `keep_tokens: "auto"`."""

    parameters: tuple[Parameter, ...]
    """Parameters for `pruner_params`, or for `params` of `llm_pruner`."""
