"""A question's pruner on a picture or video of several parts: which keeps how many, and which are seen together."""

from __future__ import annotations

from collections.abc import Sequence

from encoder_service.assembly import EncodedMedia, assemble
from encoder_service.pruners.base import BoundPruner, PrunedTokens, PrunerInput, TextFeatures
from encoder_service.tiling import as_one_part, tiled_image
from encoder_service.visual import MediaFeatures, PatchLayout
from fovea.budget import allocate_budget

__all__ = ["keep_in_tower", "prune"]


def keep_in_tower(
    layout: PatchLayout, *, keep_tokens: int | None, keep_ratio: float | None, most_tokens: int | None = None
) -> int | None:
    """K of each part where the tower prunes, which it does before padding is cut away; None where nothing is pruned.

    A count, and likewise `most_tokens`, is shared over the parts that show something, 1 to each at least.

    Raises:
        ValueError: See `allocate_budget`.
    """
    shown = [len(places) for places in layout.places() if len(places)]
    # A full budget prunes nothing: the tower runs whole, and its features serve everybody.
    keeps = allocate_budget(shown, keep_tokens=keep_tokens, keep_ratio=keep_ratio)
    if _at_most(most_tokens, keeps, shown, layout) == shown:
        return None
    sizes = [layout.rows * layout.columns] * len(shown)
    keeps = allocate_budget(sizes, keep_tokens=keep_tokens, keep_ratio=keep_ratio)
    return max(1, min(_at_most(most_tokens, keeps, sizes, layout)))


def prune(
    visual: MediaFeatures,
    pruner: BoundPruner,
    *,
    keep_tokens: int | None,
    keep_ratio: float | None,
    most_tokens: int | None = None,
    text: TextFeatures | None,
    seed: int,
    features_cached: bool,
) -> EncodedMedia:
    """What is left of a picture or video, in the order in which the language model reads it.

    Args:
        visual: Before pruning, or from a tower that has spent the budget.
        pruner: What chooses.
        keep_tokens: Budget as a count, or
        keep_ratio: as a share; neither where the pruner decides, part by part.
        most_tokens: Of the whole picture or video, whatever the budget or the pruner says.
        text: The question.
        seed: Of the first part; the others count on.
        features_cached: Passed on.

    Raises:
        ValueError: See `allocate_budget`.
    """
    sizes = [len(places) for places in visual.places]
    if keep_tokens is None and keep_ratio is None and pruner.choose_keep is not None:
        jobs = [PrunerInput(part, n, text=text, seed=seed) for part, n in zip(visual.parts, sizes, strict=True)]
        keeps = [pruner.choose_keep(job) for job in jobs]
    else:
        keeps = list(allocate_budget(sizes, keep_tokens=keep_tokens, keep_ratio=keep_ratio))
    keeps = _at_most(most_tokens, keeps, sizes, visual.layout)
    if visual.layout.mosaic is not None and sum(keeps) < sum(sizes):
        if pruner.joins_tiles:
            visual, keeps = as_one_part(visual), [sum(keeps)]
        elif pruner.allocate_budget is not None:
            keeps = list(pruner.allocate_budget(tiled_image(visual), sum(keeps)))
    pruned: list[PrunedTokens | None] = []
    for i, (part, keep) in enumerate(zip(visual.parts, keeps, strict=True)):
        if keep and part.kept_in_tower is not None:
            keep = len(part.kept_in_tower)
        pruned.append(pruner.prune(PrunerInput(part, keep, text=text, seed=seed + i)) if keep else None)
    return assemble(visual, pruned, features_cached=features_cached)


def _at_most(most_tokens: int | None, keeps: Sequence[int], sizes: Sequence[int], layout: PatchLayout) -> list[int]:
    """`keeps`, lessened in proportion where they pass `most_tokens`.

    What only a whole picture or video sends counts too: its CLS rows as tokens, and each end of a line, a few bytes,
    as one.
    """
    if most_tokens is None:
        return list(keeps)
    kept, extra = sum(keeps), 0
    if list(keeps) == list(sizes):
        extra = layout.num_inputs * layout.cls_per_input + (0 if layout.mosaic is None else len(layout.mosaic))
    if kept + extra <= most_tokens:
        return list(keeps)
    return list(allocate_budget(keeps, keep_tokens=max(1, min(most_tokens, kept - 1))))
