"""Response of `GET /v1/pruners`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["PrunerDescription", "PrunerList", "PrunerParameterDescription"]


class PrunerParameterDescription(BaseModel):
    """One entry of `pruner_params`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    type: str
    """`number`, `integer`, `boolean` or `string`; null besides, where the description says so."""

    default: Any
    description: str
    """Values accepted and what they do."""


class PrunerDescription(BaseModel):
    """One way to choose which visual tokens are kept."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """As used in `pruner` (side `encoder`) or in `llm_pruner` (side `llm`)."""

    side: Literal["encoder", "llm"]
    """Where it runs."""

    summary: str
    reference: str
    """The paper."""

    reads_text: bool
    """Its choice depends on the question."""

    parameters: list[PrunerParameterDescription]

    chooses_budget: bool
    """It takes `keep_tokens: "auto"`."""


class PrunerList(BaseModel):
    """The pruners that the two services offer, and what applies where a request does not say."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pruners: list[PrunerDescription]
    default_pruner: str
    default_keep_ratio: float
    default_wire_dtype: str
