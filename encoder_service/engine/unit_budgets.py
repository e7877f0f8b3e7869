"""Units of pruning of each image and video, and the budget of each unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from encoder_service.engine.isolation import retry_individually
from encoder_service.engine.pruning_units import (
    PruningTask,
    PruningUnit,
    TextRow,
    frame_joint_unit,
    gather,
    grouped,
    tile_joint_unit,
    units_of,
)
from encoder_service.engine.wire_values import DeviceFormat
from encoder_service.models.media_features import IntArray, MediaFeatures, PatchLayout
from encoder_service.pruners.base import BoundPruner, TiledImages
from fovea.budget import Budget, allocate_budget

__all__ = ["MediaToPrune", "keep_in_tower", "plan"]


@dataclass(frozen=True, slots=True, eq=False)
class MediaToPrune:
    """An image or video of a request.

    Attributes:
        features: Features before pruning, or features of a tower that was pruned inside.
        pruner: The request's pruner.
        budget: Budget of the image or video. If it is auto, the pruner decides for each tile or frame.
        text: The request's question; None if the pruner reads none.
        seed: Seed of the first unit. Each further one has the next integer.
        joins_frames: Whether the frames of a video are pruned as one.
        features_cached: Whether the features come from the cache.
        wire_format: Wire format to which its tokens are converted on the device.
    """

    features: MediaFeatures
    pruner: BoundPruner
    budget: Budget
    text: TextRow | None
    seed: int
    joins_frames: bool = False
    features_cached: bool = False
    wire_format: DeviceFormat = "float32"

    def task(self, unit: PruningUnit, keep: int, index: int = 0) -> PruningTask:
        """Task to prune the unit of number `index` to `keep` tokens."""
        text = self.text if self.pruner.requirements.text else None
        return PruningTask(unit, self.pruner, keep, text, self.seed + index)


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


def plan(media: Sequence[MediaToPrune]) -> list[list[PruningTask] | Exception]:
    """Tasks of each image and video, one for each unit, or the error of a budget. A task may keep 0 tokens.

    Values are read from the device only for automatic budgets and where a pruner allocates over tiles, once for each
    group of media that are pruned alike.
    """
    units = [_units(item) for item in media]
    chosen = _chosen_by_pruner(media, units)
    plans: list[list[PruningTask] | Exception] = []
    for i, (item, own) in enumerate(zip(media, units, strict=True)):
        try:
            plans.append(_plan(item, own, chosen.get(i)))
        except Exception as error:  # an image that fails must not fail the others of its batch
            plans.append(error)
    _allocate_over_tiles(media, plans)
    return plans


def _units(item: MediaToPrune) -> list[PruningUnit] | Exception:
    """Units of an image or video, or the error of a video whose frames cannot be joined."""
    try:
        if item.joins_frames and item.features.layout.is_video:
            return [frame_joint_unit(item.features)]
        return units_of(item.features)
    except Exception as error:
        return error


def _plan(
    item: MediaToPrune, units: list[PruningUnit] | Exception, chosen: list[int] | Exception | None
) -> list[PruningTask]:
    """Tasks of an image or video; `chosen` has what the pruner chose for each unit."""
    if isinstance(units, Exception):
        raise units
    if isinstance(chosen, Exception):
        raise chosen
    layout, budget = item.features.layout, item.budget
    sizes = [unit.num_patches for unit in units]
    allocated = _capped(chosen or allocate_budget(sizes, budget), sizes, layout, budget.max_tokens)
    if layout.mosaic is not None and item.pruner.pruner.joins_tiles and sum(allocated) < sum(sizes):
        units, allocated = [tile_joint_unit(item.features)], [sum(allocated)]
    tasks = []
    for i, (unit, keep) in enumerate(zip(units, allocated, strict=True)):
        kept_in_tower = unit.num_kept_in_tower
        tasks.append(item.task(unit, kept_in_tower if keep and kept_in_tower is not None else keep, i))
    return tasks


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


def _chosen_by_pruner(
    media: Sequence[MediaToPrune], units: Sequence[list[PruningUnit] | Exception]
) -> dict[int, list[int] | Exception]:
    """Budgets that pruners choose for the units of media with an automatic budget, by index of the image or video."""
    chosen: dict[int, list[int] | Exception] = {}
    owners: dict[int, tuple[int, int]] = {}  # of a task by its id: index of the image or video, number of the unit
    tasks: list[PruningTask] = []
    for i, (item, own) in enumerate(zip(media, units, strict=True)):
        if item.budget.is_auto and item.pruner.pruner.choose_keep is not None and not isinstance(own, Exception):
            chosen[i] = [0] * len(own)
            tasks += (of_item := [item.task(unit, unit.num_patches) for unit in own])
            owners |= {id(task): (i, number) for number, task in enumerate(of_item)}
    for group in grouped(tasks):
        for task, keep in zip(group, retry_individually(_choose, group), strict=True):
            i, number = owners[id(task)]
            budgets = chosen[i]
            if isinstance(keep, Exception):
                chosen[i] = keep
            elif not isinstance(budgets, Exception):
                budgets[number] = keep
    return chosen


def _choose(tasks: Sequence[PruningTask]) -> Sequence[int]:
    """Budget that the pruner chooses for each task of a group."""
    pruner = tasks[0].pruner
    assert pruner.pruner.choose_keep is not None
    return pruner.pruner.choose_keep(gather(tasks), pruner.params)


def _allocate_over_tiles(media: Sequence[MediaToPrune], plans: list[list[PruningTask] | Exception]) -> None:
    """Replaces the budgets of tiles where the pruner allocates them itself."""
    owners: dict[int, int] = {}  # index of the image by the id of its base tile's task
    tasks: list[PruningTask] = []
    for i, (item, planned) in enumerate(zip(media, plans, strict=True)):
        if isinstance(planned, Exception) or item.pruner.pruner.allocate_budget is None:
            continue
        is_pruned = sum(task.keep for task in planned) < sum(task.unit.num_patches for task in planned)
        if item.features.layout.mosaic is not None and is_pruned:
            tasks.append(base := item.task(planned[0].unit, 1))
            owners[id(base)] = i

    def allocate(group: Sequence[PruningTask]) -> list[list[PruningTask]]:
        indices = [owners[id(task)] for task in group]
        planned = [tasks for i in indices if isinstance(tasks := plans[i], list)]
        return _allocated(group, [media[i] for i in indices], planned)

    for group in grouped(tasks):
        for task, outcome in zip(group, retry_individually(allocate, group), strict=True):
            plans[owners[id(task)]] = outcome


def _allocated(
    bases: Sequence[PruningTask], media: Sequence[MediaToPrune], planned: Sequence[Sequence[PruningTask]]
) -> list[list[PruningTask]]:
    """Tasks of each image with the budgets that the pruner allocates to its tiles, one token at least.

    Args:
        bases: A group with the base tile of each image.
        media: The images.
        planned: Tasks of each image before.
    """
    pruner = bases[0].pruner
    images = TiledImages(
        gather(bases, outputs=pruner.requirements.tile_outputs).vision,
        [[task.unit.num_patches for task in tasks] for tasks in planned],
        [_tile_at(item.features) for item in media],
    )
    assert pruner.pruner.allocate_budget is not None
    totals = [sum(task.keep for task in tasks) for tasks in planned]
    budgets = pruner.pruner.allocate_budget(images, totals, pruner.params)
    return [
        [
            item.task(task.unit, keep, number)
            for number, (task, keep) in enumerate(zip(tasks, keeps if any(keeps) else [1, *keeps[1:]], strict=True))
        ]
        for item, tasks, keeps in zip(media, planned, budgets, strict=True)
    ]


def _tile_at(image: MediaFeatures) -> IntArray:
    """Index of the tile, among those that are not all padding, of each patch of the mosaic."""
    layout = image.layout
    assert layout.mosaic is not None
    return image.index_of_tiles()[layout.mosaic // (layout.rows * layout.columns)]
