"""Response of `GET /v1/pruners`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["PrunerDescription", "PrunerList", "PrunerParameterDescription"]


class PrunerParameterDescription(BaseModel):
    """Parameter of a pruner: an entry of `pruner_params`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """Name of the parameter."""

    type: str
    """Type of the value: `number`, `integer`, `boolean` or `string`; also null if the description says so."""

    default: Any
    """Default value."""

    description: str
    """Accepted values and their effect."""


class PrunerDescription(BaseModel):
    """Pruner: a method that chooses which visual tokens are kept."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """Name for `pruner` (side `encoder`) or for `llm_pruner` (side `llm`)."""

    side: Literal["encoder", "llm"]
    """Side on which the pruner runs: encoder service or language model."""

    summary: str
    """Description in one sentence."""

    reference: str
    """Paper or source of the method."""

    reads_text: bool
    """Whether the choice depends on the question."""

    parameters: list[PrunerParameterDescription]
    """Parameters for `pruner_params`, or for `params` of `llm_pruner`."""

    chooses_budget: bool
    """Whether the pruner accepts `keep_tokens: "auto"`."""


class PrunerList(BaseModel):
    """Pruners of both services, and the defaults of this server."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pruners: list[PrunerDescription]
    """All pruners, those of the encoder service first."""

    default_pruner: str
    """Pruner of requests that name none."""

    default_keep_ratio: float
    """Budget of requests that set none, as a share of the visual tokens."""

    default_wire_dtype: str
    """Wire format of requests that set none."""
