"""What came of a plan, as it is cached and as it is answered."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from gateway.clients.encoder import Encoded
from gateway.schemas.answer import AnswerResponse, CacheReport, Explain, Lookup, TimingMs, Usage

__all__ = ["Computed", "StoredAnswer", "explain", "respond"]

Number = TypeVar("Number", int, float)


class StoredAnswer(BaseModel):
    """An answer as it lies in the cache."""

    answer: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    visual_tokens_total: int
    visual_tokens_kept: int
    wire_dtype: str


@dataclass(frozen=True)
class Computed:
    """An answer and what it took; the defaults are those of an answer that took nothing."""

    stored: StoredAnswer
    wire_bytes: int = 0
    answer: Lookup = "hit"
    visual_tokens: Lookup = "skip"
    features: Lookup = "skip"
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    explain: Explain | None = None


def respond(
    computed: Computed, *, model: str, tokenize_ms: float, time_to_first_token_s: float, total_s: float
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


def explain(encoded: Encoded) -> Explain:
    """Maps and kept patches of the first picture; a question has one so far."""
    why = encoded.explanations[0]
    columns = why.grid[1]
    return Explain(
        pruner=encoded.pruner,
        grid=why.grid,
        kept=why.kept,
        task_map=_rows(why.task_map, columns),
        saliency_map=_rows(why.saliency_map, columns),
        merged_into=_rows(why.merged_into, columns),
    )


def _rows(values: list[Number], columns: int) -> list[list[Number]] | None:
    return [values[i : i + columns] for i in range(0, len(values), columns)] or None
