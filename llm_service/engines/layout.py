"""Where the visual tokens of a prompt are, for the methods that prune them inside the language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from llm_service.prompts import Prompt, VisualTokens
from llm_service.pruners.base import VisualLayout

__all__ = ["num_prunable", "prunable_rows", "visual_layout"]

IntArray = npt.NDArray[np.int64]


def num_prunable(prompt: Prompt, visual_token_ids: Sequence[int]) -> int:
    """Visual tokens that may be pruned: all patches, but for one at the very end of the prompt, from whose state the
    answer starts. Rows that stand for no patch, and ends of lines, stay like words."""
    count = sum(int(_is_patch(tokens).sum()) for tokens in prompt.visual_tokens)
    at_end = count > 0 and prompt.input_ids[-1] in visual_token_ids
    if at_end:
        last = prompt.visual_tokens[-1]
        at_end = bool(_is_patch(last)[-1]) and len(last.positions) - 1 not in last.newline_after
    return count - int(at_end)


def prunable_rows(prompt: Prompt, visual_token_ids: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which rows of the visual tokens, all pictures together, are the `num_prunable`."""
    rows = np.concatenate([np.empty(0, np.bool_), *map(_is_patch, prompt.visual_tokens)])
    surplus = int(rows.sum()) - num_prunable(prompt, visual_token_ids)
    rows[rows.nonzero()[0][len(rows[rows]) - surplus :]] = False
    return rows


def visual_layout(prompt: Prompt, visual_token_ids: Sequence[int], device: torch.device) -> VisualLayout:
    """Places in the spliced prompt and coordinates in the patch grids of its `num_prunable` visual tokens."""
    places: list[IntArray] = []
    picture: list[IntArray] = []
    row: list[IntArray] = []
    column: list[IntArray] = []
    grids: list[tuple[int, int]] = []  # of the frames that have a token, whatever the number of all
    spliced = 0  # how much longer the pictures so far have made the prompt
    for place, tokens in zip(prompt.placeholders(visual_token_ids), prompt.visual_tokens, strict=True):
        _, rows, columns = tokens.grid
        is_patch = _is_patch(tokens)
        index = np.arange(len(tokens.positions))
        # searchsorted: ends of lines in front of each row.
        places.append((place + spliced + index + np.searchsorted(tokens.newline_after, index))[is_patch])
        positions = tokens.positions[is_patch]
        patch = positions % (rows * columns)
        frames, frame_of = np.unique(positions // (rows * columns), return_inverse=True)
        picture.append(len(grids) + frame_of)
        row.append(patch // columns)
        column.append(patch % columns)
        spliced += tokens.num_tokens - 1
        grids += [(rows, columns)] * len(frames)
    count = num_prunable(prompt, visual_token_ids)

    def joined(parts: list[IntArray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([*parts, np.empty(0, np.int64)])[:count]).to(device)

    return VisualLayout(joined(places), joined(picture), joined(row), joined(column), tuple(grids))


def _is_patch(tokens: VisualTokens) -> npt.NDArray[np.bool_]:
    return np.asarray(tokens.positions < np.prod(tokens.grid))
