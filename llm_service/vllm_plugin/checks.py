"""What a payload must be before vLLM's engine core, which a wrong count, width or position would end, may see it."""

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
    """What the loaded model accepts.

    Attributes:
        hidden_size: H of the language model; None where the engine takes no embeddings at all.
        merge_size: Patches on a side of what becomes one visual token.
        tokens_per_second: Positions that a second of video takes.
        max_positions: A position is below it.
    """

    hidden_size: int | None
    merge_size: int
    tokens_per_second: float
    max_positions: int


def check_pruned(modality: Modality, data: Mapping[str, object], limits: PayloadLimits) -> None:
    """Checks a payload of `multi_modal_data`.

    Raises:
        ValueError: A field is missing or not what it should be; says what would be accepted.
    """
    counts_name, positions_name = f"{modality}_num_tokens", f"{modality}_positions"
    counts = _tensor(data, counts_name, _INTEGERS, ndim=1).tolist()
    if not counts or min(counts) < 1:
        raise ValueError(f"{counts_name} is {counts[:8]}; every {modality} needs at least 1 token")
    _check_embeds(modality, data, sum(counts), limits)
    grids = _grids(modality, data, len(counts), limits)
    positions = _tensor(data, positions_name, _INTEGERS, ndim=1)
    if len(positions) != sum(counts):
        raise ValueError(f"{positions_name} has {len(positions)} rows, {counts_name} promises {sum(counts)}")
    for index, (grid, some) in enumerate(zip(grids, positions.split(counts), strict=True)):
        if some.min() < 0 or some.max() >= math.prod(grid):
            raise ValueError(
                f"{positions_name} of {modality} {index} reach from {some.min()} to {some.max()};"
                f" its grid holds 0 to {math.prod(grid) - 1}"
            )
    if modality == "video" and SECONDS in data:
        _check_seconds(data, grids, limits)


def check_whole(modality: Modality, data: Mapping[str, object], limits: PayloadLimits) -> None:
    """Checks vLLM's own payload of embeddings, which has a row for each token of the grid.

    Raises:
        ValueError: As in `check_pruned`.
    """
    grids = _grids(modality, data, None, limits)
    _check_embeds(modality, data, sum(map(math.prod, grids)), limits)
    if modality == "video" and SECONDS in data:
        _check_seconds(data, grids, limits)


def _check_embeds(modality: Modality, data: Mapping[str, object], count: int, limits: PayloadLimits) -> None:
    name = f"{modality}_embeds"
    embeds = _tensor(data, name, _FLOATS, ndim=2)
    if len(embeds) != count:
        raise ValueError(f"{name} has {len(embeds)} rows; {count} are announced")
    if limits.hidden_size is not None and embeds.shape[1] != limits.hidden_size:
        raise ValueError(f"{name} is {embeds.shape[1]} wide; the language model is {limits.hidden_size}")
    if not embeds.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity")


def _grids(
    modality: Modality, data: Mapping[str, object], count: int | None, limits: PayloadLimits
) -> list[tuple[int, int, int]]:
    """Frames, rows and columns of visual tokens; `count` of them if that is known."""
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
        if modality == "image" and frames != 1:
            raise ValueError(f"{name} has a picture of {frames} frames; a picture has 1")
        if max(frames, height // merge, width // merge) > limits.max_positions:
            raise ValueError(f"{name} has {frames} x {height} x {width}, past {limits.max_positions} positions")
        merged.append((frames, height // merge, width // merge))
    return merged


def _check_seconds(data: Mapping[str, object], grids: list[tuple[int, int, int]], limits: PayloadLimits) -> None:
    seconds = _tensor(data, SECONDS, _FLOATS, ndim=1).tolist()
    if len(seconds) != len(grids):
        raise ValueError(f"{SECONDS} has {len(seconds)} numbers for {len(grids)} videos")
    for (frames, _, _), interval in zip(grids, seconds, strict=True):
        last = (frames - 1) * interval * limits.tokens_per_second
        if not 0 < interval < math.inf or last >= limits.max_positions:
            raise ValueError(
                f"{SECONDS} is {interval:g} for {frames} frames; more than 0 and an end before position"
                f" {limits.max_positions} are accepted"
            )


def _tensor(data: Mapping[str, object], name: str, dtypes: tuple[torch.dtype, ...], *, ndim: int) -> torch.Tensor:
    value = data.get(name)
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} is {'missing' if value is None else type(value).__name__}; a tensor is needed")
    if value.dtype not in dtypes or value.ndim != ndim:
        raise ValueError(
            f"{name} is {value.dtype} with {value.ndim} axes; accepted: {', '.join(map(str, dtypes))} with {ndim}"
        )
    return value
