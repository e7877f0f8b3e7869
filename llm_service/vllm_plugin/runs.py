"""From vLLM's items to where their tokens stand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from vllm.multimodal.inputs import MultiModalKwargsItem

from llm_service.mrope import VisualRun, grid_offsets, place
from llm_service.vllm_plugin.payload import SECONDS, Modality

__all__ = ["is_pruned", "positions_of"]

Placed = tuple[int, Modality, MultiModalKwargsItem]


def is_pruned(modality: Modality, item: MultiModalKwargsItem) -> bool:
    """The item says which tokens of its grid it holds."""
    return f"{modality}_num_tokens" in item


def positions_of(num_tokens: int, items: Iterable[Placed], vision_config: Any) -> tuple[npt.NDArray[np.int64], int]:
    """Positions of a prompt with pruned pictures or videos among others; see `llm_service.mrope.place`.

    Args:
        num_tokens: L, visual tokens included.
        items: Index of its first token, modality and fields of each picture and video, in any order.
        vision_config: Of the checkpoint.

    Returns:
        [3, L], and the position of the first token decoded.
    """
    runs = [_run(*item, vision_config) for item in sorted(items, key=lambda item: item[0])]
    return place(num_tokens, runs)


def _run(start: int, modality: Modality, item: MultiModalKwargsItem, vision_config: Any) -> VisualRun:
    """One without positions holds its whole grid."""
    merge = vision_config.spatial_merge_size
    frames, height, width = item[f"{modality}_grid_thw"].data.tolist()
    grid = (frames, height // merge, width // merge)
    interval = np.float32(1)
    if modality == "video":
        seconds = item[SECONDS].data.item() if SECONDS in item else 1.0
        interval = np.float32(vision_config.tokens_per_second) * np.float32(seconds)
    if is_pruned(modality, item):
        positions = item[f"{modality}_positions"].data.numpy().astype(np.int64)
    else:
        positions = np.arange(math.prod(grid))
    return VisualRun(start, grid_offsets(positions, grid, interval), max(grid[1:]))
