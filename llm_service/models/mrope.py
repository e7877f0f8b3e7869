"""Positions with three axes (M-RoPE): time, row and column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llm_service.prompts import Prompt, VisualTokens

__all__ = ["mrope_positions"]

IntArray = npt.NDArray[np.int64]

# Where a video does not say how far its steps lie apart; transformers takes the same.
_DEFAULT_SECONDS: float = 1.0


def mrope_positions(prompt: Prompt, placeholders: IntArray, tokens_per_second: float) -> tuple[IntArray, int]:
    """Where each token stands, as `get_rope_index` of transformers' Qwen2.5-VL has it for the *unpruned* prompt.

    Text counts on, the same on all axes. A picture or video that begins at position b has its token (t, row, column) at
    (b + t', b + row, b + column), kept or not, with t' = 0 for a picture and floor(t * seconds * tokens_per_second) for
    a video. Text goes on at b + max(rows, columns) of the whole grid, however long a video lasts.

    Args:
        prompt: Visual tokens with the positions that they had in their grids.
        placeholders: Where in its ids they go.
        tokens_per_second: Positions that a second of video takes.

    Returns:
        [3, L] for the L tokens of the pruned prompt, and the position of the first token decoded, at which text goes on
        (`generate` of transformers counts on from the last token of the prompt: the same where that is text).
    """
    parts: list[IntArray] = []
    position = start = 0
    for place, tokens in zip(placeholders.tolist(), prompt.visual_tokens, strict=True):
        parts.append(_text(position, place - start))
        position += place - start
        start = place + 1
        frames, rows, columns = tokens.grid
        frame, patch = np.divmod(tokens.positions, rows * columns)
        steps = _steps(tokens, frames, tokens_per_second)
        parts.append(position + np.stack([steps[frame], *np.divmod(patch, columns)]))
        position += max(rows, columns)
    rest = len(prompt.input_ids) - start
    parts.append(_text(position, rest))
    return np.concatenate(parts, axis=1), position + rest


def _text(start: int, length: int) -> IntArray:
    return np.tile(np.arange(start, start + length), (3, 1))


def _steps(tokens: VisualTokens, frames: int, tokens_per_second: float) -> IntArray:
    """Where each frame of the grid is in time, [frames]; in float32, as transformers computes it."""
    interval = np.float32(1)
    if tokens.is_video:
        interval = np.float32(tokens_per_second) * np.float32(tokens.seconds_per_frame or _DEFAULT_SECONDS)
    return (np.arange(frames, dtype=np.float32) * interval).astype(np.int64)
