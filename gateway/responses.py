"""What came of a plan, as it is cached and as it is answered."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from gateway.clients.encoder import EncodeResult, Explanation
from gateway.schemas.answer_response import (
    AnswerResponse,
    CacheReport,
    ImageExplanation,
    Lookup,
    MediaExplanation,
    MediaExplanations,
    TimingMs,
    Usage,
)
from gateway.schemas.explain import ActivationMaps, ExplainResponse, ExplainUsage

__all__ = ["AnswerResult", "CachedAnswer", "activation_maps", "answer_response", "explain_response", "explanation"]

Number = TypeVar("Number", int, float)


class CachedAnswer(BaseModel):
    """An answer as it lies in the cache."""

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
    """An answer and what it took; the defaults are those of an answer that took nothing."""

    stored: CachedAnswer
    wire_bytes: int = 0
    answer: Lookup = "hit"
    visual_tokens: Lookup = "skip"
    features: Lookup = "skip"
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    explain: ImageExplanation | MediaExplanations | None = None


def answer_response(
    computed: AnswerResult, *, model: str, tokenize_ms: float, time_to_first_token_s: float, total_s: float
) -> AnswerResponse:
    """The answer to one request, under an id of its own."""
    stored = computed.stored
    return AnswerResponse(
        id=f"ans-{uuid.uuid4().hex}",
        model=model,
        answer=stored.answer,
        finish_reason=stored.finish_reason,
        usage=Usage(
            prompt_tokens=stored.prompt_tokens,
            completion_tokens=stored.completion_tokens,
            visual_tokens_total=stored.visual_tokens_total,
            visual_tokens_kept=stored.visual_tokens_kept,
            visual_tokens_by_layer=stored.visual_tokens_by_layer or None,
            wire_dtype=stored.wire_dtype,
            wire_bytes=computed.wire_bytes,
        ),
        cache=CacheReport(answer=computed.answer, visual_tokens=computed.visual_tokens, features=computed.features),
        timing_ms=TimingMs(
            queue=round(computed.queue_ms, 3),
            tokenize=round(tokenize_ms, 3),
            encode=round(computed.encode_ms, 3),
            time_to_first_token=round(time_to_first_token_s * 1000, 3),
            generate=round(computed.generate_ms, 3),
            total=round(total_s * 1000, 3),
        ),
        explain=computed.explain,
    )


def explanation(encoded: EncodeResult) -> ImageExplanation | MediaExplanations:
    """Maps and kept patches: of one plain picture, or of each of several, of tiled ones and of videos."""
    explanations = encoded.explanations
    if len(explanations) == 1 and explanations[0].grid[0] == 1 and not explanations[0].is_video:
        return _image_explanation(encoded.pruner, explanations[0])
    return MediaExplanations(pruner=encoded.pruner, visuals=[_media_explanation(one) for one in explanations])


def _image_explanation(pruner: str, why: Explanation) -> ImageExplanation:
    _, rows, columns = why.grid
    return ImageExplanation(
        pruner=pruner,
        grid=(rows, columns),
        kept=why.kept,
        task_map=_rows(why.task_map, columns),
        saliency_map=_rows(why.saliency_map, columns),
        merged_into=_rows(why.merged_into, columns),
    )


def _media_explanation(why: Explanation) -> MediaExplanation:
    return MediaExplanation(
        kind="video" if why.is_video else "image",
        grid=why.grid,
        kept=why.kept,
        task_map=_frames(why.task_map, why.grid),
        saliency_map=_frames(why.saliency_map, why.grid),
        merged_into=_frames(why.merged_into, why.grid),
    )


def explain_response(encoded: EncodeResult, maps: ActivationMaps | None, *, model: str) -> ExplainResponse:
    """The answer to one request for an explanation."""
    return ExplainResponse(
        model=model,
        usage=ExplainUsage(visual_tokens_total=encoded.num_tokens_total, visual_tokens_kept=encoded.num_tokens_kept),
        explain=explanation(encoded),
        maps=maps,
    )


def activation_maps(vanilla: EncodeResult, decoupled: EncodeResult, attention: list[float]) -> ActivationMaps:
    """The four maps of figure 7 (arXiv 2604.11240), of one plain picture.

    Args:
        vanilla, decoupled: DeSAP's outputs with the one similarity and the other.
        attention: Of the language model to each patch.
    """
    (by_vanilla,), (by_decoupled,) = vanilla.explanations, decoupled.explanations
    _, _, columns = by_decoupled.grid
    cross = _rows(attention, columns)
    assert cross is not None
    return ActivationMaps(
        cls_attention=_rows(by_decoupled.saliency_map, columns),
        cross_attention=cross,
        vanilla_similarity=_rows(by_vanilla.task_map, columns),
        decoupled_similarity=_rows(by_decoupled.task_map, columns),
    )


def _rows(values: list[Number], columns: int) -> list[list[Number]] | None:
    return [values[i : i + columns] for i in range(0, len(values), columns)] or None


def _frames(values: list[Number], grid: tuple[int, int, int]) -> list[list[list[Number]]] | None:
    _, rows, columns = grid
    lines = _rows(values, columns) or []
    return [lines[i : i + rows] for i in range(0, len(lines), rows)] or None
