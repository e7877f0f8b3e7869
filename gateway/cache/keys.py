"""Names under which results are cached: pure functions of everything that can change the result.

A key is a readable prefix and the SHA-256 of a JSON list. JSON separates and types its parts, so different inputs
never read the same; sorted keys and exact numbers make equal inputs read the same in every process. `VERSION` goes
up whenever the meaning of a cached value changes.
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
    """What decides the encoder's output.

    Attributes:
        image_sha256: Hex digest of each picture file, in order.
        videos: Of each video, in order, whether it is a `file` or `frames`, and the hex digests of its file or frames.
        num_frames, seconds_per_frame, video_budget: How videos are read and pruned; None where there are none, or
            where the request leaves it to the service.
        text_ids: The question for the text tower; empty for pruners that read no text.
        pruner: Name of the pruner, never empty.
        pruner_params: Its parameters as given.
        keep_tokens, keep_ratio: The budget, one of the two.
        wire_dtype: Name of the dtype that tokens travel in; None where the encoder chooses.
        max_wire_bytes: Most bytes of the tokens; None for no limit.
        explain: The output holds the score maps.
        fingerprints: Of the encoder's checkpoint, text tower and settings.
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
    """What decides the text, given prompt and visual tokens."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: Sequence[str]


def _digest(kind: str, parts: Sequence[Any]) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"fovea:{VERSION}:{kind}:{hashlib.sha256(text.encode()).hexdigest()}"


def _plain(encode: EncodeKey) -> list[Any]:
    # A ratio of 1 and one of 1.0 are the same request.
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
    """Key of the encoder's output."""
    return _digest("visual_tokens", _plain(encode))


def answer_key(
    encode: EncodeKey,
    input_ids: Sequence[int],
    sampling: SamplingKey,
    llm_fingerprints: Sequence[str],
    llm_pruner: Mapping[str, Any] | None = None,
) -> str:
    """Key of a whole answer.

    Args:
        encode: As for the visual tokens; `explain` has no say in an answer.
        input_ids: The prompt for the language model.
        sampling: Sampling parameters.
        llm_fingerprints: Of the LLM service's checkpoint and settings.
        llm_pruner: What prunes inside the language model: its name, parameters and budget.
    """
    max_tokens, temperature, top_p, seed, stop = astuple(sampling)
    if temperature == 0:  # greedy: the others have no say
        top_p, seed = 1.0, None
    plain_sampling = [max_tokens, float(temperature), float(top_p), seed, list(stop)]
    plain_encode = _plain(replace(encode, explain=False))
    plain_pruner = None if llm_pruner is None else dict(llm_pruner)
    return _digest("answer", [plain_encode, list(input_ids), plain_sampling, list(llm_fingerprints), plain_pruner])
