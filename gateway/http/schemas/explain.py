"""Request and response of `POST /v1/explain`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.http.schemas.answer import QuestionRequest
from gateway.http.schemas.answer_response import ImageExplanation, MediaExplanations

__all__ = ["ActivationMaps", "ExplainRequest", "ExplainResponse", "ExplainUsage"]

Map = list[list[float]]


class ExplainRequest(QuestionRequest):
    """Request to explain which visual tokens are kept for a question. No answer is generated."""

    maps: bool = False
    """Whether to add the four activation maps of figure 7 of the DeSAP paper, for one image; the drawing then shows
    them. The language model runs one prefill."""

    cross_attention_layer: int | None = Field(default=None, ge=0, lt=2**32)
    """Layer of the language model, from 0, whose attention `maps` shows; left out: layer 2 of 32, scaled to the model's
    number of layers."""

    format: Literal["png", "json"] = "png"
    """Format of the response: `png`, a drawing of images that the model does not cut into tiles, or `json`, the numbers
    for all media."""


class _Response(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class ExplainUsage(_Response):
    """Numbers of visual tokens."""

    visual_tokens_total: int
    """Visual tokens of all images and videos before pruning."""

    visual_tokens_kept: int
    """Visual tokens of all images and videos after pruning."""


class ActivationMaps(_Response):
    """Four activation maps of an image, each [rows][columns]."""

    cls_attention: Map | None = None
    """CLS attention in the last layer of the vision tower, averaged over the heads."""

    cross_attention: Map
    """Attention of the last prompt token in an early layer of the language model, averaged over the heads, without
    pruning."""

    vanilla_similarity: Map | None = None
    """Task map of DeSAP with the vanilla similarity: computed on the output of the whole last layer."""

    decoupled_similarity: Map | None = None
    """Task map of DeSAP with its decoupled similarity."""


class ExplainResponse(_Response):
    """Explanation of the visual tokens kept for a question."""

    model: str
    """Name of the served model."""

    usage: ExplainUsage
    explain: ImageExplanation | MediaExplanations

    maps: ActivationMaps | None = None
    """Activation maps; only if requested."""
