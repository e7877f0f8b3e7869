"""Validation of payloads before they reach vLLM's engine core, which dies of a wrong count, width or position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from llm_service.vllm_plugin.payload import SECONDS, Modality

__all__ = ["PayloadLimits", "check_pruned", "check_whole"]

_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)
_INTEGERS: Final = (torch.int64, torch.int32)


@dataclass(frozen=True)
class PayloadLimits:
    """Limits of the loaded model for payloads.

    Attributes:
        embeds_width: Width W of an embedding with its DeepStack planes; None for an engine that accepts no embeddings.
        merge_size: Side, in patches, of the square that becomes one visual token.
        tokens_per_second: Position ids that a second of video takes.
        max_positions: Upper bound of position ids, exclusive.
        has_frame_items: Whether an item of a pruned payload of videos is a single frame, which may have no tokens.
    """

    embeds_width: int | None
    merge_size: int
    tokens_per_second: float
    max_positions: int
    has_frame_items: bool = False


def check_pruned(modality: Modality, data: Mapping[str, object], limits: PayloadLimits) -> None:
    """Validates a payload of `multi_modal_data`.

    Raises:
        ValueError: A field is missing or not accepted; the message names what is.
    """
    counts_name, positions_name = f"{modality}_num_tokens", f"{modality}_positions"
    counts = _tensor(data, counts_name, _INTEGERS, ndim=1).tolist()
    is_frame = modality == "video" and limits.has_frame_items
    least = 0 if is_frame else 1
    if not counts or min(counts) < least:
        noun = "frame" if is_frame else modality
        raise ValueError(f"{counts_name} is {counts[:8]}; at least {least} for each {noun} is accepted")
    _check_embeds(modality, data, sum(counts), limits)
    grids = _grids(modality, data, len(counts), limits, one_frame=is_frame or modality == "image")
    positions = _tensor(data, positions_name, _INTEGERS, ndim=1)
    if len(positions) != sum(counts):
        raise ValueError(f"{positions_name} has {len(positions)} entries; {counts_name} sums up to {sum(counts)}")
    for index, (grid, item) in enumerate(zip(grids, positions.split(counts), strict=True)):
        if len(item) and (item.min() < 0 or item.max() >= math.prod(grid)):
            raise ValueError(
                f"{positions_name} of {modality} {index} reach from {item.min()} to {item.max()};"
                f" its grid has 0 to {math.prod(grid) - 1}"
            )
    if modality == "video" and SECONDS in data:
        _check_seconds(data, grids, limits)


def check_whole(modality: Modality, data: Mapping[str, object], limits: PayloadLimits) -> None:
    """Validates vLLM's own payload of embeddings, which has one for each token of the grid.

    Raises:
        ValueError: A field is missing or not accepted; the message names what is.
    """
    grids = _grids(modality, data, None, limits, one_frame=modality == "image")
    _check_embeds(modality, data, sum(map(math.prod, grids)), limits)
    if modality == "video" and SECONDS in data:
        _check_seconds(data, grids, limits)


def _check_embeds(modality: Modality, data: Mapping[str, object], count: int, limits: PayloadLimits) -> None:
    name = f"{modality}_embeds"
    embeds = _tensor(data, name, _FLOATS, ndim=2)
    if len(embeds) != count:
        raise ValueError(f"{name} has {len(embeds)} tokens; {count} are expected")
    if limits.embeds_width is not None and embeds.shape[1] != limits.embeds_width:
        raise ValueError(f"{name} has width {embeds.shape[1]}; the model takes {limits.embeds_width}")
    if not embeds.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity")


def _grids(
    modality: Modality, data: Mapping[str, object], count: int | None, limits: PayloadLimits, *, one_frame: bool
) -> list[tuple[int, int, int]]:
    """Grids of visual tokens as (frames, rows, columns); `count` grids unless it is None."""
    name = f"{modality}_grid_thw"
    grids = _tensor(data, name, _INTEGERS, ndim=2)
    if grids.shape[1] != 3 or len(grids) != (len(grids) if count is None else count) or not len(grids):
        raise ValueError(f"{name} has shape {list(grids.shape)}; [{'n' if count is None else count}, 3] is accepted")
    merge, merged = limits.merge_size, []
    for frames, height, width in grids.tolist():
        if min(frames, height, width) < 1 or height % merge or width % merge:
            raise ValueError(
                f"{name} has {frames} x {height} x {width}; rows and columns are positive multiples of {merge}"
            )
        if one_frame and frames != 1:
            raise ValueError(f"{name} has an item of {frames} frames; 1 is accepted")
        if max(frames, height // merge, width // merge) > limits.max_positions:
            raise ValueError(f"{name} has {frames} x {height} x {width}, past {limits.max_positions} positions")
        merged.append((frames, height // merge, width // merge))
    return merged


def _check_seconds(data: Mapping[str, object], grids: list[tuple[int, int, int]], limits: PayloadLimits) -> None:
    seconds = _tensor(data, SECONDS, _FLOATS, ndim=1).tolist()
    if len(seconds) != len(grids):
        raise ValueError(f"{SECONDS} has {len(seconds)} numbers for {len(grids)} videos")
    for (frames, _, _), interval in zip(grids, seconds, strict=True):
        last_position = (frames - 1) * interval * limits.tokens_per_second
        if not 0 < interval < math.inf or last_position >= limits.max_positions:
            raise ValueError(
                f"{SECONDS} is {interval:g} for {frames} frames; accepted are values above 0 with which the video ends"
                f" before position {limits.max_positions}"
            )


def _tensor(data: Mapping[str, object], name: str, dtypes: tuple[torch.dtype, ...], *, ndim: int) -> torch.Tensor:
    value = data.get(name)
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} is {'missing' if value is None else type(value).__name__}; a tensor is accepted")
    if value.dtype not in dtypes or value.ndim != ndim:
        raise ValueError(
            f"{name} is {value.dtype} with {value.ndim} axes; accepted: {', '.join(map(str, dtypes))} with {ndim}"
        )
    return value
