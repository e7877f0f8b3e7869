"""Positions with three axes (M-RoPE): time, row and column.

Knows numpy alone: the plugin for vLLM places its tokens by the same lines, in processes that load no model of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_service.prompts import Prompt, VisualTokens

__all__ = ["VisualRun", "grid_offsets", "mrope_positions", "place"]

IntArray = npt.NDArray[np.int64]

# Where a video does not say how far its steps lie apart; transformers takes the same.
_DEFAULT_SECONDS: float = 1.0


@dataclass(frozen=True)
class VisualRun:
    """The kept tokens of one picture or video, which stand side by side in the prompt.

    Attributes:
        start: Index of the first of them among the prompt's tokens.
        offsets: [3, K] from the position at which the picture or video begins.
        extent: Positions after which text goes on.
    """

    start: int
    offsets: IntArray
    extent: int


def mrope_positions(prompt: Prompt, placeholders: IntArray, tokens_per_second: float) -> tuple[IntArray, int]:
    """Where each token of a prompt stands; see `place`.

    Args:
        prompt: Visual tokens with the positions that they had in their grids.
        placeholders: Where in its ids they go.
        tokens_per_second: Positions that a second of video takes.

    Returns:
        [3, L] for the L tokens of the pruned prompt, and the position of the first token decoded.
    """
    runs: list[VisualRun] = []
    inserted = 0
    for index, tokens in zip(placeholders.tolist(), prompt.visual_tokens, strict=True):
        offsets = grid_offsets(tokens.positions, tokens.grid, _interval(tokens, tokens_per_second))
        runs.append(VisualRun(index + inserted, offsets, max(tokens.grid[1:])))
        inserted += len(tokens.positions) - 1
    return place(len(prompt.input_ids) + inserted, runs)


def grid_offsets(positions: IntArray, grid: tuple[int, int, int], interval: np.float32) -> IntArray:
    """(t', row, column) of tokens in their grid, [3, K].

    t' = floor(t * interval) for frame t, computed in float32 as transformers does.

    Args:
        positions: [K], counted frame by frame, row by row.
        grid: Frames, rows and columns.
        interval: Positions from one frame to the next; 1 for a picture.
    """
    _, rows, columns = grid
    frame, patch = np.divmod(positions, rows * columns)
    steps = (frame.astype(np.float32) * interval).astype(np.int64)
    return np.stack([steps, *np.divmod(patch, columns)])


def place(num_tokens: int, runs: Iterable[VisualRun]) -> tuple[IntArray, int]:
    """Where each token stands, as `get_rope_index` of transformers' Qwen2.5-VL has it for the *unpruned* prompt.

    Text counts on, the same on all axes. A picture or video that begins at position b has its token (t, row, column) at
    (b + t', b + row, b + column), kept or not. Text goes on at b + max(rows, columns) of the whole grid, however long a
    video lasts.

    Args:
        num_tokens: L, visual tokens included.
        runs: In the order of the prompt.

    Returns:
        [3, L], and the position of the first token decoded, at which text goes on (`generate` of transformers counts on
        from the last token of the prompt: the same where that is text).
    """
    parts: list[IntArray] = []
    position = end = 0
    for run in runs:
        parts.append(_text(position, run.start - end))
        position += run.start - end
        parts.append(position + run.offsets)
        position += run.extent
        end = run.start + run.offsets.shape[1]
    parts.append(_text(position, num_tokens - end))
    return np.concatenate(parts, axis=1), position + num_tokens - end


def _text(start: int, length: int) -> IntArray:
    return np.tile(np.arange(start, start + length), (3, 1))


def _interval(tokens: VisualTokens, tokens_per_second: float) -> np.float32:
    if not tokens.is_video:
        return np.float32(1)
    return np.float32(tokens_per_second) * np.float32(tokens.seconds_per_frame or _DEFAULT_SECONDS)
