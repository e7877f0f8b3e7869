"""Units of pruning of each image and video, and the budget of each unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from encoder_service.engine.isolation import all_or_error
from encoder_service.engine.pruning_units import PruningUnit, frame_joint_unit, tile_joint_unit, units_of
from encoder_service.engine.request_media import RequestMedia
from encoder_service.engine.unit_batches import compute_in_groups, gather
from encoder_service.models.media_features import IntArray, MediaFeatures, PatchLayout
from encoder_service.pruners.base import TiledImages
from fovea.budget import Budget, allocate_budget

__all__ = ["keep_in_tower", "plan"]


def keep_in_tower(layout: PatchLayout, budget: Budget) -> int | None:
    """Number of patches that a pruner inside the tower keeps of each tower input; None if nothing is pruned.

    The tower prunes before padding is removed. A count and `max_tokens` are allocated to the tower inputs that are not
    all padding, at least 1 to each.

    Raises:
        ValueError: See `allocate_budget`.
    """
    sizes = [len(positions) for positions in layout.patch_positions() if len(positions)]
    # With a full budget the tower runs unpruned, so that its features can be reused by every pruner.
    if _capped(allocate_budget(sizes, budget), sizes, layout, budget.max_tokens) == sizes:
        return None
    sizes_with_padding = [layout.rows * layout.columns] * len(sizes)
    allocated = allocate_budget(sizes_with_padding, budget)
    return max(1, min(_capped(allocated, sizes_with_padding, layout, budget.max_tokens)))


def plan(media: Sequence[RequestMedia]) -> list[list[PruningUnit] | Exception]:
    """Units of each image and video with their budgets, or the error of a budget. A unit may keep 0 tokens.

    Values are read from the device only for automatic budgets and where a pruner allocates over tiles, once for each
    group of media that are pruned alike.
    """
    units = [_units(item) for item in media]
    chosen = _chosen_by_pruner(units)
    plans: list[list[PruningUnit] | Exception] = []
    for own in units:
        try:
            plans.append(_plan(own, chosen))
        except Exception as error:  # an image that fails must not fail the others of its batch
            plans.append(error)
    _allocate_over_tiles(plans)
    return plans


def _units(item: RequestMedia) -> list[PruningUnit] | Exception:
    """Units of an image or video, or the error of a video whose frames cannot be joined."""
    try:
        if item.request.joins_frames and item.unpruned.layout.is_video:
            return [frame_joint_unit(item)]
        return units_of(item)
    except Exception as error:
        return error


def _plan(units: list[PruningUnit] | Exception, chosen: Mapping[int, int | Exception]) -> list[PruningUnit]:
    """Units of an image or video with their budgets; `chosen` has what the pruner chose, see `_chosen_by_pruner`."""
    if isinstance(units, Exception):
        raise units
    keeps = all_or_error([chosen[id(unit)] for unit in units if id(unit) in chosen])
    if isinstance(keeps, Exception):
        raise keeps
    item = units[0].media
    layout, budget = item.unpruned.layout, item.request.budget
    sizes = [unit.num_patches for unit in units]
    allocated = _capped(keeps or allocate_budget(sizes, budget), sizes, layout, budget.max_tokens)
    if layout.mosaic is not None and units[0].pruner.pruner.joins_tiles and sum(allocated) < sum(sizes):
        units, allocated = [tile_joint_unit(item)], [sum(allocated)]
    planned = []
    for unit, keep in zip(units, allocated, strict=True):
        kept_in_tower = unit.num_kept_in_tower
        planned.append(dataclasses.replace(unit, keep=kept_in_tower if keep and kept_in_tower is not None else keep))
    return planned


def _capped(allocated: Sequence[int], sizes: Sequence[int], layout: PatchLayout, max_tokens: int | None) -> list[int]:
    """`allocated`, reduced in proportion to at most `max_tokens`.

    CLS tokens and newlines, which only unpruned media have, count too. A newline, a few bytes, counts as one token.
    """
    if max_tokens is None:
        return list(allocated)
    kept, extra = sum(allocated), 0
    if list(allocated) == list(sizes):
        extra = layout.num_inputs * layout.cls_per_input + (0 if layout.mosaic is None else len(layout.mosaic))
    if kept + extra <= max_tokens:
        return list(allocated)
    return list(allocate_budget(allocated, Budget.count(max(1, min(max_tokens, kept - 1)))))


def _chosen_by_pruner(units: Sequence[list[PruningUnit] | Exception]) -> dict[int, int | Exception]:
    """Budgets that pruners choose for the units of media with an automatic budget, by the id of the unit."""
    choosing = [
        unit
        for own in units
        if not isinstance(own, Exception)
        for unit in own
        if unit.media.request.budget.is_auto and unit.pruner.pruner.choose_keep is not None
    ]
    return compute_in_groups(_choose, choosing)


def _choose(units: Sequence[PruningUnit]) -> Sequence[int]:
    """Budget that the pruner chooses for each unit of a group."""
    pruner = units[0].pruner
    assert pruner.pruner.choose_keep is not None
    return pruner.pruner.choose_keep(gather(units), pruner.params)


def _allocate_over_tiles(plans: list[list[PruningUnit] | Exception]) -> None:
    """Replaces the budgets of tiles where the pruner allocates them itself."""
    planned: dict[int, list[PruningUnit]] = {}  # units of the image by the id of its base tile
    bases: dict[int, PruningUnit] = {}  # base tile by the index of the image in `plans`
    for i, units in enumerate(plans):
        if not isinstance(units, Exception) and _has_tiles_to_prune(units):
            bases[i] = dataclasses.replace(units[0], keep=1)
            planned[id(bases[i])] = units
    allocated = compute_in_groups(
        lambda group: _allocated(group, [planned[id(base)] for base in group]), list(bases.values())
    )
    for i, base in bases.items():
        plans[i] = allocated[id(base)]


def _has_tiles_to_prune(units: Sequence[PruningUnit]) -> bool:
    """Whether the units are tiles of an image that is pruned, over which the pruner allocates."""
    media = units[0].media
    if media.request.pruner.pruner.allocate_budget is None or media.unpruned.layout.mosaic is None:
        return False
    return sum(unit.keep for unit in units) < sum(unit.num_patches for unit in units)


def _allocated(bases: Sequence[PruningUnit], planned: Sequence[Sequence[PruningUnit]]) -> list[list[PruningUnit]]:
    """Units of each image with the budgets that the pruner allocates to its tiles, one token at least.

    Args:
        bases: A group with the base tile of each image.
        planned: Units of each image before.
    """
    pruner = bases[0].pruner
    images = TiledImages(
        gather(bases, outputs=pruner.requirements.tile_outputs).vision,
        [[unit.num_patches for unit in units] for units in planned],
        [_tile_at(base.media.unpruned) for base in bases],
    )
    assert pruner.pruner.allocate_budget is not None
    totals = [sum(unit.keep for unit in units) for units in planned]
    budgets = pruner.pruner.allocate_budget(images, totals, pruner.params)
    return [
        [
            dataclasses.replace(unit, keep=keep)
            for unit, keep in zip(units, keeps if any(keeps) else [1, *keeps[1:]], strict=True)
        ]
        for units, keeps in zip(planned, budgets, strict=True)
    ]


def _tile_at(image: MediaFeatures) -> IntArray:
    """Index of the tile, among those that are not all padding, of each patch of the mosaic."""
    layout = image.layout
    assert layout.mosaic is not None
    return image.index_of_tiles()[layout.mosaic // (layout.rows * layout.columns)]
