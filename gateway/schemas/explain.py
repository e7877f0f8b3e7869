"""Request and response of `POST /v1/explain`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.schemas.answer import QuestionRequest
from gateway.schemas.answer_response import ImageExplanation, MediaExplanations

__all__ = ["ActivationMaps", "ExplainRequest", "ExplainResponse", "ExplainUsage"]

Rows = list[list[float]]


class ExplainRequest(QuestionRequest):
    """Which visual tokens would be kept for a question, and why. Nothing is answered."""

    maps: bool = False
    """Add the four activation maps of the DeSAP paper's figure 7, of one picture; the drawing then shows these. The
    language model runs once."""

    cross_attention_layer: int | None = Field(default=None, ge=0, lt=2**32)
    """Layer of the language model, from 0, whose attention `maps` shows; left out: layer 2 of 32, scaled to the model's
    depth."""

    format: Literal["png", "json"] = "png"
    """`png`: a drawing, of pictures that the model does not cut into tiles; `json`: the numbers, of anything."""


class _Response(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class ExplainUsage(_Response):
    """Counts."""

    visual_tokens_total: int
    """Visual tokens of all pictures and videos before pruning."""

    visual_tokens_kept: int
    """Visual tokens of all of them that would reach the language model."""


class ActivationMaps(_Response):
    """Four ways to see what matters in the picture, each [rows][columns]."""

    cls_attention: Rows | None = None
    """Attention of CLS in the vision tower's last layer, mean over the heads."""

    cross_attention: Rows
    """Attention of the last prompt token in an early layer of the language model, mean over the heads, unpruned."""

    vanilla_similarity: Rows | None = None
    """DeSAP's task map, taken on the output of the whole last layer."""

    decoupled_similarity: Rows | None = None
    """DeSAP's task map."""


class ExplainResponse(_Response):
    """What would be kept, and why."""

    model: str
    """The served model's name."""

    usage: ExplainUsage
    explain: ImageExplanation | MediaExplanations

    maps: ActivationMaps | None = None
    """Only if asked for."""
