"""Response of `POST /v1/answer`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from gateway.clients.replies import Box
from gateway.core.answer import Lookup

__all__ = [
    "AnswerResponse",
    "CacheReport",
    "ImageExplanation",
    "MediaExplanation",
    "MediaExplanations",
    "TimingMs",
    "TokenEvent",
    "Usage",
]


class _Response(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Usage(_Response):
    """Tokens and bytes of the answer."""

    prompt_tokens: int
    """Tokens of the prompt, kept visual tokens included."""

    completion_tokens: int
    """Generated tokens."""

    visual_tokens_total: int
    """Visual tokens of all images and videos before pruning."""

    visual_tokens_kept: int
    """Visual tokens of all images and videos that were sent to the language model."""

    visual_tokens_by_layer: list[int] | None = None
    """Visual tokens that each layer of the language model attended over; only with `llm_pruner`."""

    viewed: list[Box] | None = None
    """Part of each image, then of each video, that the model saw: left, top, right and bottom, from 0 to 1 of its width
    and height. [0, 0, 1, 1] is the whole; `image_fit` chooses."""

    wire_dtype: str
    """Wire format of the visual tokens when the answer was computed."""

    wire_bytes: int
    """Bytes of visual tokens sent to the LLM service for this answer, retries included; 0 for a cached or shared
    answer."""


class CacheReport(_Response):
    """Outcome of the look-up in each cache: `hit`, `miss`, or `skip` if there was no look-up."""

    answer: Lookup
    """Cache of answers. An answer shared with an identical request in progress counts as a hit."""

    visual_tokens: Lookup
    """Cache of visual tokens, by images, videos, question, pruner and budget."""

    features: Lookup
    """Feature cache of the encoder service; a hit if it held the features of all images and videos."""


class TimingMs(_Response):
    """Durations in milliseconds, measured by the gateway."""

    queue: float
    """Queue time in both services."""

    tokenize: float
    """Tokenization of the question for both services."""

    encode: float
    """Call to the encoder service; 0 without a call."""

    time_to_first_token: float
    """Time to first token (TTFT), from the arrival of the request."""

    generate: float
    """Call to the LLM service; 0 without a call."""

    total: float
    """Time from the arrival of the request to the end of the answer."""


class ImageExplanation(_Response):
    """Explanation of the visual tokens kept of a single image that is not cut into tiles."""

    pruner: str
    """Name of the pruner that ran."""

    grid: tuple[int, int]
    """Rows and columns of the patch grid."""

    kept: list[int]
    """Grid positions of the kept patches, row * columns + column, in prompt order."""

    viewed: Box | None = None
    """Area that the patch grid covers: left, top, right and bottom, in units of the image's width and height. With
    `image_fit` `pad` it begins below 0 or ends beyond 1, where the border is."""

    task_map: list[list[float]] | None = None
    """[rows][columns] Relevance of each patch to the question, if the pruner computes it."""

    saliency_map: list[list[float]] | None = None
    """[rows][columns] CLS attention to each patch, if the pruner computes it."""

    merged_into: list[list[int]] | None = None
    """[rows][columns] Index into `kept` of the token that each patch is or was merged into; -1 for a dropped patch."""


class MediaExplanation(_Response):
    """Explanation of the visual tokens kept of one image or video."""

    kind: Literal["image", "video"]
    """Modality of this entry."""

    grid: tuple[int, int, int]
    """Frames, rows and columns of the patch grid. For an image cut into tiles the frames are its tiles, the base tile
    first."""

    kept: list[int]
    """Grid positions of the kept patches, frame * rows * columns + row * columns + column, in prompt order. Positions
    after the last patch stand for tokens that are not patches."""

    viewed: Box | None = None
    """Area that the patch grid covers: left, top, right and bottom, in units of its width and height. With
    `image_fit` `pad` it begins below 0 or ends beyond 1, where the border is."""

    task_map: list[list[list[float]]] | None = None
    """[frames][rows][columns] Relevance of each patch to the question, if the pruner computes it; 0 for padding."""

    saliency_map: list[list[list[float]]] | None = None
    """[frames][rows][columns] CLS attention to each patch, if the pruner computes it; 0 for padding."""

    merged_into: list[list[list[int]]] | None = None
    """[frames][rows][columns] Index into `kept` of the token that each patch is or was merged into; -1 for a dropped
    patch and for padding."""


class MediaExplanations(_Response):
    """Explanations of the visual tokens kept of several images, of an image cut into tiles, or of videos."""

    pruner: str
    """Name of the pruner that ran."""

    visuals: list[MediaExplanation]
    """Explanations of the images, then of the videos, in the order of the request."""


class AnswerResponse(_Response):
    """An answer, its usage and its timing."""

    id: str
    """Id of the response, unique for each request."""

    model: str
    """Name of the served model."""

    answer: str
    """Text of the answer."""

    finish_reason: str
    """Reason for the end of the answer: `stop` (end of sequence or a stop string) or `length` (`max_tokens`
    reached)."""

    usage: Usage
    cache: CacheReport
    timing_ms: TimingMs

    explain: ImageExplanation | MediaExplanations | None = None
    """Explanation of the kept tokens; only if requested."""


class TokenEvent(_Response):
    """Data of the SSE event `token`."""

    text: str
    """Next piece of the answer's text."""
