"""Where the visual tokens of a prompt are, for the methods that prune them inside the language model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from llm_service.prompts import Prompt
from llm_service.pruners.base import VisualLayout

__all__ = ["num_prunable", "visual_layout"]


def num_prunable(prompt: Prompt, image_token_id: int) -> int:
    """Visual tokens that may be pruned: all, but for one at the very end of the prompt, from whose state the answer
    starts."""
    count = sum(len(picture.positions) for picture in prompt.visual_tokens)
    return count - int(count > 0 and prompt.input_ids[-1] == image_token_id)


def visual_layout(prompt: Prompt, image_token_id: int, device: torch.device) -> VisualLayout:
    """Places in the spliced prompt and coordinates in the patch grids of its `num_prunable` visual tokens."""
    places: list[npt.NDArray[np.int64]] = []
    picture: list[npt.NDArray[np.int64]] = []
    row: list[npt.NDArray[np.int64]] = []
    column: list[npt.NDArray[np.int64]] = []
    grids: list[tuple[int, int]] = []
    spliced = 0  # how much longer the pictures so far have made the prompt
    for place, tokens in zip((prompt.input_ids == image_token_id).nonzero()[0], prompt.visual_tokens, strict=True):
        frames, rows, columns = tokens.grid
        patch = tokens.positions % (rows * columns)
        places.append(place + spliced + np.arange(len(tokens.positions)))
        picture.append(len(grids) + tokens.positions // (rows * columns))
        row.append(patch // columns)
        column.append(patch % columns)
        spliced += len(tokens.positions) - 1
        grids += [(rows, columns)] * frames
    count = num_prunable(prompt, image_token_id)

    def joined(parts: list[npt.NDArray[np.int64]]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([*parts, np.empty(0, np.int64)])[:count]).to(device)

    return VisualLayout(joined(places), joined(picture), joined(row), joined(column), tuple(grids))
