"""A question's pruner on a picture or video of several parts: which keeps how many, and which are seen together."""

from __future__ import annotations

from encoder_service.assembly import EncodedVisual, assemble
from encoder_service.pruners.base import BoundPruner, PrunedTokens, PrunerInput, TextFeatures
from encoder_service.tiling import as_one_part, tiled_picture
from encoder_service.visual import Layout, VisualFeatures
from fovea.budget import share_budget

__all__ = ["keep_in_tower", "prune"]


def keep_in_tower(layout: Layout, *, keep_tokens: int | None, keep_ratio: float | None) -> int | None:
    """K of each part where the tower prunes, which it does before padding is cut away; None where nothing is pruned.

    A count is shared over the parts that show something, 1 to each at least.

    Raises:
        ValueError: See `share_budget`.
    """
    shown = [len(places) for places in layout.places() if len(places)]
    # A full budget prunes nothing: the tower runs whole, and its features serve everybody.
    if share_budget(shown, keep_tokens=keep_tokens, keep_ratio=keep_ratio) == tuple(shown):
        return None
    sizes = [layout.rows * layout.columns] * len(shown)
    return max(1, min(share_budget(sizes, keep_tokens=keep_tokens, keep_ratio=keep_ratio)))


def prune(
    visual: VisualFeatures,
    pruner: BoundPruner,
    *,
    keep_tokens: int | None,
    keep_ratio: float | None,
    text: TextFeatures | None,
    seed: int,
    features_cached: bool,
) -> EncodedVisual:
    """What is left of a picture or video, in the order in which the language model reads it.

    Args:
        visual: Before pruning, or from a tower that has spent the budget.
        pruner: What chooses.
        keep_tokens: Budget as a count, or
        keep_ratio: as a share; neither where the pruner decides, part by part.
        text: The question.
        seed: Of the first part; the others count on.
        features_cached: Passed on.

    Raises:
        ValueError: See `share_budget`.
    """
    sizes = [len(places) for places in visual.places]
    if keep_tokens is None and keep_ratio is None and pruner.choose_keep is not None:
        jobs = [PrunerInput(part, n, text=text, seed=seed) for part, n in zip(visual.parts, sizes, strict=True)]
        keeps = [pruner.choose_keep(job) for job in jobs]
    else:
        keeps = list(share_budget(sizes, keep_tokens=keep_tokens, keep_ratio=keep_ratio))
    if visual.layout.mosaic is not None and sum(keeps) < sum(sizes):
        if pruner.joins_tiles:
            visual, keeps = as_one_part(visual), [sum(keeps)]
        elif pruner.deal is not None:
            keeps = list(pruner.deal(tiled_picture(visual), sum(keeps)))
    pruned: list[PrunedTokens | None] = []
    for i, (part, keep) in enumerate(zip(visual.parts, keeps, strict=True)):
        if keep and part.survivors is not None:
            keep = len(part.survivors)
        pruned.append(pruner.prune(PrunerInput(part, keep, text=text, seed=seed + i)) if keep else None)
    return assemble(visual, pruned, features_cached=features_cached)
