"""Position ids of vLLM's multimodal items."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from vllm.multimodal.inputs import MultiModalKwargsItem

from llm_service.mrope import VisualSpan, grid_offsets, position_ids_per_second, span_position_ids
from llm_service.vllm_plugin.payload import SECONDS, Modality

__all__ = ["PlacedItem", "is_pruned", "prompt_position_ids"]

PlacedItem = tuple[int, Modality, MultiModalKwargsItem]
"""Index of the first token in the prompt, modality and fields of an image, video or frame."""


def is_pruned(modality: Modality, item: MultiModalKwargsItem) -> bool:
    """Whether an item is a pruned payload."""
    return f"{modality}_num_tokens" in item


def prompt_position_ids(
    num_tokens: int, items: Iterable[PlacedItem], vision_config: Any
) -> tuple[npt.NDArray[np.int64], int]:
    """Position ids of a prompt with pruned and unpruned images or videos; see `llm_service.mrope.span_position_ids`.

    Args:
        num_tokens: L, visual tokens included.
        items: Index of the first token, modality and fields of each image and video, in any order.
        vision_config: Vision config of the checkpoint.

    Returns:
        [3, L], and the position id of the first decoded token.
    """
    spans = [_span(*item, vision_config) for item in sorted(items, key=lambda item: item[0])]
    return span_position_ids(num_tokens, spans)


def _span(start: int, modality: Modality, item: MultiModalKwargsItem, vision_config: Any) -> VisualSpan:
    """Span of one item; an item without positions holds its whole grid."""
    merge = vision_config.spatial_merge_size
    frames, height, width = item[f"{modality}_grid_thw"].data.tolist()
    grid = (frames, height // merge, width // merge)
    interval = np.float32(1)
    if modality == "video":
        seconds = item[SECONDS].data.item() if SECONDS in item else 1.0
        interval = np.float32(position_ids_per_second(vision_config)) * np.float32(seconds)
    if is_pruned(modality, item):
        positions = item[f"{modality}_positions"].data.numpy().astype(np.int64)
    else:
        positions = np.arange(math.prod(grid))
    return VisualSpan(start, grid_offsets(positions, grid, interval), max(grid[1:]))
