"""Responses of the API, built from the results of the services; and the cached form of an answer."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from gateway.clients.encoder import EncodeResult, Explanation
from gateway.http.schemas.answer_response import (
    AnswerResponse,
    CacheReport,
    ImageExplanation,
    Lookup,
    MediaExplanation,
    MediaExplanations,
    TimingMs,
    Usage,
)
from gateway.http.schemas.explain import ActivationMaps, ExplainResponse, ExplainUsage

__all__ = ["AnswerResult", "CachedAnswer", "activation_maps", "answer_response", "explain_response", "explanation"]

Number = TypeVar("Number", int, float)


class CachedAnswer(BaseModel):
    """An answer in the form in which it is cached."""

    answer: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    visual_tokens_total: int
    visual_tokens_kept: int
    visual_tokens_by_layer: list[int] = []
    wire_dtype: str


@dataclass(frozen=True)
class AnswerResult:
    """An answer and the cost of its computation. The defaults are those of an answer that was not computed.

    Attributes:
        cached: The answer.
        wire_bytes: Bytes of visual tokens sent to the LLM service.
        answer, visual_tokens, features: Outcome of the look-up in each cache.
        queue_ms: Queue time in both services, in milliseconds.
        encode_ms, generate_ms: Duration of the calls to the two services, in milliseconds.
        explain: Explanation of the kept tokens; None if it was not requested.
    """

    cached: CachedAnswer
    wire_bytes: int = 0
    answer: Lookup = "hit"
    visual_tokens: Lookup = "skip"
    features: Lookup = "skip"
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    explain: ImageExplanation | MediaExplanations | None = None


def answer_response(
    result: AnswerResult, *, model: str, tokenize_ms: float, time_to_first_token_s: float, total_s: float
) -> AnswerResponse:
    """Response to one request, with an id of its own."""
    cached = result.cached
    return AnswerResponse(
        id=f"ans-{uuid.uuid4().hex}",
        model=model,
        answer=cached.answer,
        finish_reason=cached.finish_reason,
        usage=Usage(
            prompt_tokens=cached.prompt_tokens,
            completion_tokens=cached.completion_tokens,
            visual_tokens_total=cached.visual_tokens_total,
            visual_tokens_kept=cached.visual_tokens_kept,
            visual_tokens_by_layer=cached.visual_tokens_by_layer or None,
            wire_dtype=cached.wire_dtype,
            wire_bytes=result.wire_bytes,
        ),
        cache=CacheReport(answer=result.answer, visual_tokens=result.visual_tokens, features=result.features),
        timing_ms=TimingMs(
            queue=round(result.queue_ms, 3),
            tokenize=round(tokenize_ms, 3),
            encode=round(result.encode_ms, 3),
            time_to_first_token=round(time_to_first_token_s * 1000, 3),
            generate=round(result.generate_ms, 3),
            total=round(total_s * 1000, 3),
        ),
        explain=result.explain,
    )


def explanation(encoded: EncodeResult) -> ImageExplanation | MediaExplanations:
    """Explanation of one image without tiles, or the list of explanations of all other media."""
    explanations = encoded.explanations
    if len(explanations) == 1 and explanations[0].grid[0] == 1 and not explanations[0].is_video:
        return _image_explanation(encoded.pruner, explanations[0])
    return MediaExplanations(pruner=encoded.pruner, visuals=[_media_explanation(item) for item in explanations])


def _image_explanation(pruner: str, item: Explanation) -> ImageExplanation:
    _, rows, columns = item.grid
    return ImageExplanation(
        pruner=pruner,
        grid=(rows, columns),
        kept=item.kept,
        task_map=_rows(item.task_map, columns),
        saliency_map=_rows(item.saliency_map, columns),
        merged_into=_rows(item.merged_into, columns),
    )


def _media_explanation(item: Explanation) -> MediaExplanation:
    return MediaExplanation(
        kind="video" if item.is_video else "image",
        grid=item.grid,
        kept=item.kept,
        task_map=_frames(item.task_map, item.grid),
        saliency_map=_frames(item.saliency_map, item.grid),
        merged_into=_frames(item.merged_into, item.grid),
    )


def explain_response(encoded: EncodeResult, maps: ActivationMaps | None, *, model: str) -> ExplainResponse:
    """Response to one request for an explanation."""
    return ExplainResponse(
        model=model,
        usage=ExplainUsage(visual_tokens_total=encoded.num_tokens_total, visual_tokens_kept=encoded.num_tokens_kept),
        explain=explanation(encoded),
        maps=maps,
    )


def activation_maps(vanilla: EncodeResult, decoupled: EncodeResult, attention: list[float]) -> ActivationMaps:
    """The four activation maps of figure 7 (arXiv 2604.11240), of one image without tiles.

    Args:
        vanilla, decoupled: Results of DeSAP with its vanilla or decoupled similarity.
        attention: Attention of the language model to each patch, in raster order.
    """
    (vanilla_item,), (decoupled_item,) = vanilla.explanations, decoupled.explanations
    _, _, columns = decoupled_item.grid
    cross_attention = _rows(attention, columns)
    assert cross_attention is not None
    return ActivationMaps(
        cls_attention=_rows(decoupled_item.saliency_map, columns),
        cross_attention=cross_attention,
        vanilla_similarity=_rows(vanilla_item.task_map, columns),
        decoupled_similarity=_rows(decoupled_item.task_map, columns),
    )


def _rows(values: list[Number], columns: int) -> list[list[Number]] | None:
    """`values` as [rows][columns]; None if empty."""
    return [values[i : i + columns] for i in range(0, len(values), columns)] or None


def _frames(values: list[Number], grid: tuple[int, int, int]) -> list[list[list[Number]]] | None:
    """`values` as [frames][rows][columns]; None if empty."""
    _, num_rows, columns = grid
    rows = _rows(values, columns) or []
    return [rows[i : i + num_rows] for i in range(0, len(rows), num_rows)] or None
