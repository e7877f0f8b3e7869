"""Pruning of an image or video: the budget is allocated to its tiles or frames, and each of them is pruned."""

from __future__ import annotations

from collections.abc import Sequence

from encoder_service.encoded_media import EncodedMedia, assemble
from encoder_service.joining import join_tiles
from encoder_service.media_features import MediaFeatures, PatchLayout
from encoder_service.pruners.base import BoundPruner, PrunedTokens, PrunerInput, TextFeatures
from encoder_service.tiling import tiled_image
from fovea.budget import Budget, allocate_budget

__all__ = ["keep_in_tower", "prune"]


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


def prune(
    media: MediaFeatures,
    pruner: BoundPruner,
    budget: Budget,
    *,
    text: TextFeatures | None,
    seed: int,
    features_cached: bool,
) -> EncodedMedia:
    """Pruned visual tokens of an image or video, in the order in which the language model reads them.

    Args:
        media: Features before pruning, or features of a tower that was pruned inside.
        pruner: The request's pruner.
        budget: Budget of the image or video. If it is auto, the pruner decides for each tile or frame.
        text: Features of the question.
        seed: Seed of the first tower input. Each further one has the next integer.
        features_cached: Whether the features come from the cache.

    Raises:
        ValueError: See `allocate_budget`.
    """
    allocated = _allocate(media, pruner, budget, text, seed)
    if media.layout.mosaic is not None and sum(allocated) < media.num_patches:
        if pruner.joins_tiles:
            media, allocated = join_tiles(media), [sum(allocated)]
        elif pruner.allocate_budget is not None:
            allocated = list(pruner.allocate_budget(tiled_image(media), sum(allocated)))
    pruned: list[PrunedTokens | None] = []
    for i, (features, keep) in enumerate(zip(media.tower_features, allocated, strict=True)):
        if keep and features.kept_in_tower is not None:
            keep = len(features.kept_in_tower)
        pruned.append(pruner.prune(PrunerInput(features, keep, text=text, seed=seed + i)) if keep else None)
    return assemble(media, pruned, features_cached=features_cached)


def _allocate(
    media: MediaFeatures, pruner: BoundPruner, budget: Budget, text: TextFeatures | None, seed: int
) -> list[int]:
    """Number of visual tokens to keep of each tower input, at most `max_tokens` in all."""
    sizes = [len(positions) for positions in media.patch_positions]
    if budget.is_auto and pruner.choose_keep is not None:
        allocated = [
            pruner.choose_keep(PrunerInput(features, size, text=text, seed=seed))
            for features, size in zip(media.tower_features, sizes, strict=True)
        ]
    else:
        allocated = list(allocate_budget(sizes, budget))
    return _capped(allocated, sizes, media.layout, budget.max_tokens)


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
    return list(allocate_budget(allocated, Budget(keep_tokens=max(1, min(max_tokens, kept - 1)))))
