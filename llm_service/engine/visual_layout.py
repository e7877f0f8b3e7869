"""Indices and grid coordinates of the visual tokens that can be pruned inside the language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from llm_service.prompts import Prompt, VisualTokens
from llm_service.pruners.base import VisualLayout

__all__ = ["num_prunable_tokens", "prunable_mask", "visual_layout"]

IntArray = npt.NDArray[np.int64]


def num_prunable_tokens(prompt: Prompt, visual_token_ids: Sequence[int]) -> int:
    """Number of visual tokens that may be pruned.

    These are all patches except one at the very end of the prompt, whose state yields the first answer token. Visual
    tokens without a patch and line-end tokens are never pruned.
    """
    count = sum(int(_is_patch(tokens).sum()) for tokens in prompt.visual_tokens)
    at_end = count > 0 and prompt.input_ids[-1] in visual_token_ids
    if at_end:
        last = prompt.visual_tokens[-1]
        at_end = bool(_is_patch(last)[-1]) and len(last.positions) - 1 not in last.newline_after
    return count - int(at_end)


def prunable_mask(prompt: Prompt, visual_token_ids: Sequence[int]) -> npt.NDArray[np.bool_]:
    """[K] bool over the visual tokens of all media: True for the `num_prunable_tokens`."""
    mask = np.concatenate([np.empty(0, np.bool_), *map(_is_patch, prompt.visual_tokens)])
    surplus = int(mask.sum()) - num_prunable_tokens(prompt, visual_token_ids)
    mask[mask.nonzero()[0][len(mask[mask]) - surplus :]] = False
    return mask


def visual_layout(prompt: Prompt, visual_token_ids: Sequence[int], device: torch.device) -> VisualLayout:
    """Layout of the `num_prunable_tokens` visual tokens in the prompt with its placeholders expanded."""
    indices: list[IntArray] = []
    image: list[IntArray] = []
    row: list[IntArray] = []
    column: list[IntArray] = []
    grids: list[tuple[int, int]] = []  # one for each frame that has a token, however many frames the video has
    num_inserted = 0  # tokens that the media so far have added to the prompt
    for placeholder, tokens in zip(prompt.placeholders(visual_token_ids), prompt.visual_tokens, strict=True):
        _, rows, columns = tokens.grid
        is_patch = _is_patch(tokens)
        offsets = np.arange(len(tokens.positions))
        # searchsorted counts the line-end tokens before each visual token.
        offsets = placeholder + num_inserted + offsets + np.searchsorted(tokens.newline_after, offsets)
        indices.append(offsets[is_patch])
        positions = tokens.positions[is_patch]
        patch = positions % (rows * columns)
        frames, frame_index = np.unique(positions // (rows * columns), return_inverse=True)
        image.append(len(grids) + frame_index)
        row.append(patch // columns)
        column.append(patch % columns)
        num_inserted += tokens.num_tokens - 1
        grids += [(rows, columns)] * len(frames)
    count = num_prunable_tokens(prompt, visual_token_ids)

    def concatenate(arrays: list[IntArray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([*arrays, np.empty(0, np.int64)])[:count]).to(device)

    return VisualLayout(concatenate(indices), concatenate(image), concatenate(row), concatenate(column), tuple(grids))


def _is_patch(tokens: VisualTokens) -> npt.NDArray[np.bool_]:
    return np.asarray(tokens.positions < np.prod(tokens.grid))
