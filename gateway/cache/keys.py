"""Cache keys: pure functions of everything that can change a result.

A key is a readable prefix and the SHA-256 of a JSON list. JSON separates and types its elements, so different inputs
have different texts. Sorted keys and exact numbers give equal inputs the same text in every process. `VERSION` is
raised whenever the meaning of a cached value changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Final, Literal

__all__ = ["VERSION", "EncodeKey", "SamplingKey", "answer_key", "visual_tokens_key"]

VERSION: Final = "5"


@dataclass(frozen=True)
class EncodeKey:
    """Everything that determines the visual tokens.

    Attributes:
        image_sha256: Hex digest of each image file, in order.
        text_ids: Ids of the question; empty for pruners that read no text.
        pruner: Name of the pruner, never empty.
        pruner_params: Parameters of the pruner, as given.
        keep_tokens, keep_ratio: Budget, one of the two.
        wire_dtype: Wire format; None if the encoder chooses it.
        explain: Whether score maps are included.
        fingerprints: Fingerprints of the encoder's checkpoint, text tower and settings.
        max_wire_bytes: Most bytes of visual tokens; None for no limit.
        videos: Digests of each video, in order: the word `file` or `frames`, then the hex digest of the file or of each
            frame.
        num_frames, seconds_per_frame, video_budget: Sampling and budget of videos; None without videos, or if the
            request does not set them.
    """

    image_sha256: Sequence[str]
    text_ids: Sequence[int]
    pruner: str
    pruner_params: Mapping[str, Any]
    keep_tokens: int | Literal["auto"] | None
    keep_ratio: float | None
    wire_dtype: str | None
    explain: bool
    fingerprints: Sequence[str]
    max_wire_bytes: int | None = None
    videos: Sequence[Sequence[str]] = ()
    num_frames: int | None = None
    seconds_per_frame: float | None = None
    video_budget: str | None = None


@dataclass(frozen=True)
class SamplingKey:
    """Sampling parameters, which determine the text of a given prompt with visual tokens."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: Sequence[str]


def _key(level: str, elements: Sequence[Any]) -> str:
    text = json.dumps(elements, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"fovea:{VERSION}:{level}:{hashlib.sha256(text.encode()).hexdigest()}"


def _elements(encode: EncodeKey) -> list[Any]:
    # The ratios 1 and 1.0 are the same request.
    ratio = None if encode.keep_ratio is None else float(encode.keep_ratio)
    return [
        list(encode.image_sha256),
        list(encode.text_ids),
        encode.pruner,
        dict(encode.pruner_params),
        encode.keep_tokens,
        ratio,
        encode.wire_dtype,
        encode.explain,
        list(encode.fingerprints),
        [list(video) for video in encode.videos],
        encode.num_frames,
        None if encode.seconds_per_frame is None else float(encode.seconds_per_frame),
        encode.video_budget,
        encode.max_wire_bytes,
    ]


def visual_tokens_key(encode: EncodeKey) -> str:
    """Cache key of the visual tokens."""
    return _key("visual_tokens", _elements(encode))


def answer_key(
    encode: EncodeKey,
    input_ids: Sequence[int],
    sampling: SamplingKey,
    llm_fingerprints: Sequence[str],
    llm_pruner: Mapping[str, Any] | None = None,
) -> str:
    """Cache key of an answer.

    Args:
        encode: See `visual_tokens_key`; `explain` is ignored, because it does not change the answer.
        input_ids: Ids of the language model's prompt.
        sampling: Sampling parameters.
        llm_fingerprints: Fingerprints of the LLM service's checkpoint and settings.
        llm_pruner: Name, parameters and budget of the pruner inside the language model; None for none.
    """
    max_tokens, temperature, top_p, seed, stop = astuple(sampling)
    if temperature == 0:  # greedy decoding ignores the other two
        top_p, seed = 1.0, None
    sampling_elements = [max_tokens, float(temperature), float(top_p), seed, list(stop)]
    encode_elements = _elements(replace(encode, explain=False))
    llm_pruner_elements = None if llm_pruner is None else dict(llm_pruner)
    return _key(
        "answer", [encode_elements, list(input_ids), sampling_elements, list(llm_fingerprints), llm_pruner_elements]
    )
