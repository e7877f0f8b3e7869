"""Responses of `GET /v1/models`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["ModelCard", "ModelList"]


class ModelCard(BaseModel):
    """A name that requests may give as their `model`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """The name."""

    object: Literal["model"] = "model"

    created: int
    """Unix time in seconds at which the server started."""

    owned_by: Literal["fovea"] = "fovea"

    root: str
    """Name of the served model."""

    parent: str | None
    """For an alias, the name of the served model."""

    max_model_len: int
    """Context length in tokens, kept visual tokens included."""

    pruner: str | None
    """Pruner of requests under this name that name none; null while the encoder service has not answered yet."""

    keep_ratio: float | None
    """Budget of requests under this name that set none, as a share of the visual tokens; null where `keep_tokens` has
    it."""

    keep_tokens: int | Literal["auto"] | None
    """Budget of an alias that has one, in visual tokens."""


class ModelList(BaseModel):
    """The served model and the aliases that the operator lists."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
