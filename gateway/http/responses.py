"""Responses of the API, from the results of the core."""

from __future__ import annotations

import os
from typing import TypeVar

from gateway.clients.encoder import EncodeResult, Explanation
from gateway.clients.replies import Box
from gateway.core.answer import Answer
from gateway.http.schemas.answer_response import (
    AnswerResponse,
    ImageExplanation,
    MediaExplanation,
    MediaExplanations,
)
from gateway.http.schemas.explain import ActivationMaps, ExplainResponse, ExplainUsage

__all__ = ["answer_response", "as_rows", "explain_response", "explanation"]

Number = TypeVar("Number", int, float)


def answer_response(answer: Answer, *, model: str) -> AnswerResponse:
    """Response to one request, with an id of its own.

    Args:
        answer: Last event of the answer.
        model: Name of the served model.
    """
    completion, costs = answer.completion, answer.costs
    # Validated as a whole: that takes a third of the time of a validation of each part.
    return AnswerResponse.model_validate(
        {
            "id": f"ans-{os.urandom(16).hex()}",
            "model": model,
            "answer": completion.text,
            "finish_reason": completion.finish_reason,
            "usage": {
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": completion.completion_tokens,
                "visual_tokens_total": completion.visual_tokens_total,
                "visual_tokens_kept": completion.visual_tokens_kept,
                "visual_tokens_by_layer": list(completion.visual_tokens_by_layer) or None,
                "viewed": [_clipped(box) for box in completion.viewed] or None,
                "wire_dtype": completion.wire_dtype,
                "wire_bytes": costs.wire_bytes,
            },
            "cache": {"answer": costs.answer, "visual_tokens": costs.visual_tokens, "features": costs.features},
            "timing_ms": {
                "queue": round(costs.queue_ms, 3),
                "tokenize": round(answer.tokenize_ms, 3),
                "encode": round(costs.encode_ms, 3),
                "time_to_first_token": round(answer.time_to_first_token_ms, 3),
                "generate": round(costs.generate_ms, 3),
                "total": round(answer.total_ms, 3),
            },
            "explain": explanation(answer.encoded) if answer.encoded is not None else None,
        }
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
        viewed=item.viewed,
        task_map=as_rows(item.task_map, columns),
        saliency_map=as_rows(item.saliency_map, columns),
        merged_into=as_rows(item.merged_into, columns),
    )


def _media_explanation(item: Explanation) -> MediaExplanation:
    return MediaExplanation(
        kind="video" if item.is_video else "image",
        grid=item.grid,
        kept=item.kept,
        viewed=item.viewed,
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


def _clipped(box: Box) -> Box:
    """The part of an area that is in the image."""
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in box)
    return left, top, right, bottom


def as_rows(values: list[Number], columns: int) -> list[list[Number]] | None:
    """`values` as [rows][columns]; None if empty."""
    return [values[i : i + columns] for i in range(0, len(values), columns)] or None


def _frames(values: list[Number], grid: tuple[int, int, int]) -> list[list[list[Number]]] | None:
    """`values` as [frames][rows][columns]; None if empty."""
    _, num_rows, columns = grid
    lines = as_rows(values, columns) or []
    return [lines[i : i + num_rows] for i in range(0, len(lines), num_rows)] or None
