"""Response of `POST /v1/answer`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "AnswerResponse",
    "CacheReport",
    "ImageExplanation",
    "Lookup",
    "MediaExplanation",
    "MediaExplanations",
    "TimingMs",
    "TokenEvent",
    "Usage",
]

Lookup = Literal["hit", "miss", "skip"]


class _Response(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Usage(_Response):
    """What the answer cost."""

    prompt_tokens: int
    """Everything the language model prefilled, kept visual tokens included."""

    completion_tokens: int
    """Tokens generated."""

    visual_tokens_total: int
    """Visual tokens of all pictures and videos before pruning."""

    visual_tokens_kept: int
    """Visual tokens of all of them that reached the language model."""

    visual_tokens_by_layer: list[int] | None = None
    """With `llm_pruner`: how many of them each layer of the language model attended over."""

    wire_dtype: str
    """How the visual tokens of this answer travelled when it was computed."""

    wire_bytes: int
    """Bytes of visual tokens sent to the LLM service for this answer, again after each break of the link included; 0 on
    an answer hit."""


class CacheReport(_Response):
    """Where the work of this answer was saved: `hit`, `miss`, or `skip` where a level was not asked."""

    answer: Lookup
    """The whole answer. Also a hit: an identical request was in progress and its answer was shared."""

    visual_tokens: Lookup
    """The encoder's output for these pictures, question, pruner and budget."""

    features: Lookup
    """Features inside the encoder: a hit if it had those of every picture and video."""


class TimingMs(_Response):
    """Milliseconds, as seen from the gateway."""

    queue: float
    """Waiting for a place in a batch, at both services."""

    tokenize: float
    """Writing the question as ids, for both services."""

    encode: float
    """The call to the encoder service; 0 if it was not called."""

    time_to_first_token: float
    """From the request's arrival to the first text."""

    generate: float
    """The call to the LLM service; 0 if it was not called."""

    total: float
    """From the request's arrival to the end of the answer."""


class ImageExplanation(_Response):
    """Why these visual tokens were kept, of a question about one plain picture."""

    pruner: str
    """The pruner that ran."""

    grid: tuple[int, int]
    """Rows and columns of the picture's patches."""

    kept: list[int]
    """The patches kept, as row * columns + column, in the order in which the language model reads them."""

    task_map: list[list[float]] | None = None
    """[rows][columns] relevance to the question, where the pruner has it."""

    saliency_map: list[list[float]] | None = None
    """[rows][columns] attention of CLS, where the pruner has it."""

    merged_into: list[list[int]] | None = None
    """[rows][columns] index into `kept` of the token that each patch is or was merged into; -1: dropped."""


class MediaExplanation(_Response):
    """What was kept of one picture or video."""

    kind: Literal["image", "video"]

    grid: tuple[int, int, int]
    """Frames, rows and columns of the patches. Of a picture cut into tiles each tile is a frame, the whole picture made
    small the first."""

    kept: list[int]
    """The patches kept, as frame * rows * columns + row * columns + column, in the order in which the language model
    reads them. Numbers after the last patch stand for tokens that are no patches."""

    task_map: list[list[list[float]]] | None = None
    """[frames][rows][columns] relevance to the question, where the pruner has it. Padding has 0."""

    saliency_map: list[list[list[float]]] | None = None
    """[frames][rows][columns] attention of CLS, where the pruner has it. Padding has 0."""

    merged_into: list[list[list[int]]] | None = None
    """[frames][rows][columns] index into `kept` of the token that each patch is or was merged into; -1: dropped, or
    padding."""


class MediaExplanations(_Response):
    """Why these visual tokens were kept, of a question about several pictures, a tiled one or a video."""

    pruner: str
    """The pruner that ran."""

    visuals: list[MediaExplanation]
    """One for each picture, then for each video, in the order in which the request names them."""


class AnswerResponse(_Response):
    """The answer and what it took."""

    id: str
    """Of this answer; different for each request."""

    model: str
    """The served model's name."""

    answer: str
    """The answer's text."""

    finish_reason: str
    """`stop`: the model ended or a stop string came. `length`: `max_tokens` reached."""

    usage: Usage
    cache: CacheReport
    timing_ms: TimingMs

    explain: ImageExplanation | MediaExplanations | None = None
    """Only if asked for."""


class TokenEvent(_Response):
    """Data of the SSE event `token`."""

    text: str
    """The next piece of the answer."""
