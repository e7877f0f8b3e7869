"""Objects that the gateway sends, as types. They are the JSON objects of docs/api.md, unchanged."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

__all__ = [
    "Answer",
    "AnswerFields",
    "CacheReport",
    "ExplainFields",
    "ExplainUsage",
    "Explanation",
    "ImageExplanation",
    "LlmPruner",
    "MediaExplanation",
    "MediaExplanations",
    "Pruner",
    "PrunerList",
    "Timing",
    "Usage",
]

Map = list[list[float]]
Lookup = Literal["hit", "miss", "skip"]


class Usage(TypedDict):
    """Tokens and bytes of an answer."""

    prompt_tokens: int
    completion_tokens: int
    visual_tokens_total: int
    visual_tokens_kept: int
    visual_tokens_by_layer: NotRequired[list[int] | None]
    viewed: NotRequired[list[tuple[float, float, float, float]] | None]
    wire_dtype: str
    wire_bytes: int


class CacheReport(TypedDict):
    """Outcome of the look-up in each cache."""

    answer: Lookup
    visual_tokens: Lookup
    features: Lookup


class Timing(TypedDict):
    """Durations in milliseconds, measured by the gateway."""

    queue: float
    tokenize: float
    encode: float
    time_to_first_token: float
    generate: float
    total: float


class ImageExplanation(TypedDict):
    """Visual tokens kept of a single image that is not cut into tiles. Maps and clusters are [rows][columns]."""

    pruner: str
    grid: tuple[int, int]
    kept: list[int]
    viewed: NotRequired[tuple[float, float, float, float] | None]
    task_map: NotRequired[Map | None]
    saliency_map: NotRequired[Map | None]
    merged_into: NotRequired[list[list[int]] | None]


class MediaExplanation(TypedDict):
    """Visual tokens kept of one of several media. Maps and clusters are [frames][rows][columns]."""

    kind: Literal["image", "video"]
    grid: tuple[int, int, int]
    kept: list[int]
    viewed: NotRequired[tuple[float, float, float, float] | None]
    task_map: NotRequired[list[Map] | None]
    saliency_map: NotRequired[list[Map] | None]
    merged_into: NotRequired[list[list[list[int]]] | None]


class MediaExplanations(TypedDict):
    """Visual tokens kept of several images, of an image cut into tiles, or of videos."""

    pruner: str
    visuals: list[MediaExplanation]


class Answer(TypedDict):
    """Object of `/v1/answer`."""

    id: str
    model: str
    answer: str
    finish_reason: Literal["stop", "length"]
    usage: Usage
    cache: CacheReport
    timing_ms: Timing
    explain: NotRequired[ImageExplanation | MediaExplanations | None]


class ExplainUsage(TypedDict):
    """Numbers of visual tokens."""

    visual_tokens_total: int
    visual_tokens_kept: int


class Explanation(TypedDict):
    """Object of `/v1/explain`. `maps` has activation maps by name, [rows][columns], where they were requested."""

    model: str
    usage: ExplainUsage
    explain: ImageExplanation | MediaExplanations
    maps: NotRequired[dict[str, Map | None] | None]


class Pruner(TypedDict):
    """Entry of `/v1/pruners`."""

    name: str
    side: Literal["encoder", "llm"]
    chooses_budget: bool
    parameters: list[dict[str, Any]]


class PrunerList(TypedDict):
    """Object of `/v1/pruners`."""

    pruners: list[Pruner]
    default_pruner: str
    default_keep_ratio: float
    default_wire_dtype: str


class LlmPruner(TypedDict):
    """Second pruner, inside the language model; exactly one of `keep_tokens` and `keep_ratio` is needed."""

    name: str
    keep_tokens: NotRequired[int]
    keep_ratio: NotRequired[float]
    params: NotRequired[dict[str, Any]]


class _PruningFields(TypedDict, total=False):
    """Fields of every question about images and videos; None is the gateway's default."""

    model: str | None
    pruner: str | None
    pruner_params: dict[str, Any] | None
    keep_tokens: int | Literal["auto"] | None
    keep_ratio: float | None
    image_fit: Literal["crop", "pad"] | None
    num_frames: int | None
    seconds_per_frame: float | None
    video_budget: Literal["per_frame", "whole"] | None
    cache: Literal["use", "refresh", "bypass"] | None


class AnswerFields(_PruningFields, total=False):
    """Further fields of `/v1/answer` (docs/api.md); None is the gateway's default."""

    llm_pruner: LlmPruner | None
    wire_dtype: str | None
    max_wire_bytes: int | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: str | list[str] | None
    explain: bool | None


class ExplainFields(_PruningFields, total=False):
    """Further fields of `/v1/explain` (docs/api.md); None is the gateway's default."""

    maps: bool | None
    cross_attention_layer: int | None
