"""Position ids with three axes (M-RoPE): time, row and column.

Depends on numpy only, since the plugin for vLLM uses it in processes that load no other code of this service.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_service.prompts import Prompt, VisualTokens

__all__ = ["VisualSpan", "grid_offsets", "mrope_position_ids", "position_ids_per_second", "span_position_ids"]

IntArray = npt.NDArray[np.int64]

# Default of transformers for a video without seconds per frame.
_DEFAULT_SECONDS_PER_FRAME: float = 1.0


@dataclass(frozen=True)
class VisualSpan:
    """The kept tokens of one image or video, which are consecutive in the prompt.

    Attributes:
        start: Index of the first token in the prompt.
        offsets: [3, K] position ids relative to the start of the image or video.
        extent: Number of position ids that the image or video takes.
    """

    start: int
    offsets: IntArray
    extent: int


def position_ids_per_second(vision_config: Any) -> float:
    """Position ids that a second of video takes; 1 for a family whose vision config has no `tokens_per_second`."""
    rate: float = getattr(vision_config, "tokens_per_second", 1.0)
    return rate


def mrope_position_ids(prompt: Prompt, placeholders: IntArray, tokens_per_second: float) -> tuple[IntArray, int]:
    """Position ids of a prompt; see `span_position_ids`.

    Args:
        prompt: Prompt whose visual tokens have grid positions.
        placeholders: Indices of the placeholders in the prompt's ids.
        tokens_per_second: Position ids that a second of video takes.

    Returns:
        [3, L] for the L tokens of the prompt, and the position id of the first decoded token.
    """
    spans: list[VisualSpan] = []
    num_inserted = 0
    for placeholder, tokens in zip(placeholders.tolist(), prompt.visual_tokens, strict=True):
        offsets = grid_offsets(tokens.positions, tokens.grid, _frame_interval(tokens, tokens_per_second))
        spans.append(VisualSpan(placeholder + num_inserted, offsets, max(tokens.grid[1:])))
        num_inserted += len(tokens.positions) - 1
    return span_position_ids(len(prompt.input_ids) + num_inserted, spans)


def grid_offsets(positions: IntArray, grid: tuple[int, int, int], interval: np.float32) -> IntArray:
    """(t', row, column) of grid positions, [3, K].

    t' = floor(t * interval) for frame t, computed in float32 as in transformers.

    Args:
        positions: [K] grid positions, counted frame by frame, row by row.
        grid: Frames, rows and columns.
        interval: Position ids from one frame to the next; 1 for an image.
    """
    _, rows, columns = grid
    frame, patch = np.divmod(positions, rows * columns)
    time = (frame.astype(np.float32) * interval).astype(np.int64)
    return np.stack([time, *np.divmod(patch, columns)])


def span_position_ids(num_tokens: int, spans: Iterable[VisualSpan]) -> tuple[IntArray, int]:
    """Position ids as `get_rope_index` of transformers' Qwen2.5-VL computes them for the *unpruned* prompt.

    Text counts up, equally on all axes. In an image or video that starts at position id b, the token (t, row, column)
    has (b + t', b + row, b + column), whether or not its neighbours are kept. Text continues at b + max(rows, columns)
    of the whole grid, whatever the length of a video.

    Args:
        num_tokens: L, visual tokens included.
        spans: Images and videos in the order of the prompt.

    Returns:
        [3, L], and the position id of the first decoded token, at which text would continue. `generate` of transformers
        continues after the last token instead, which is the same if that is text.
    """
    parts: list[IntArray] = []
    position_id = end = 0
    for span in spans:
        parts.append(_text_position_ids(position_id, span.start - end))
        position_id += span.start - end
        parts.append(position_id + span.offsets)
        position_id += span.extent
        end = span.start + span.offsets.shape[1]
    parts.append(_text_position_ids(position_id, num_tokens - end))
    return np.concatenate(parts, axis=1), position_id + num_tokens - end


def _text_position_ids(start: int, length: int) -> IntArray:
    return np.tile(np.arange(start, start + length), (3, 1))


def _frame_interval(tokens: VisualTokens, tokens_per_second: float) -> np.float32:
    if not tokens.is_video:
        return np.float32(1)
    return np.float32(tokens_per_second) * np.float32(tokens.seconds_per_frame or _DEFAULT_SECONDS_PER_FRAME)
