"""Variants of DeSAP for `benchmarks.coverage`. Each changes one step: which tokens are kept, or the merging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner, PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.desap import DesapParameters, joint_output, requirements, task_map
from encoder_service.pruners.merging import assign_to_nearest, clusters_of_kept, merge_means
from encoder_service.pruners.tower_outputs import SALIENCY_LAST
from fovea.modeling.numerics import at_least_float32, take_vectors, top_k

__all__ = ["VARIANTS"]

Maps: TypeAlias = tuple[Tensor | None, Tensor]
Select: TypeAlias = Callable[[PrunerInput, Maps], Tensor]
Merge: TypeAlias = Callable[[PrunerInput, Maps, Tensor], PrunedTokens]


@dataclass(frozen=True, slots=True)
class _NoParameters:
    """No parameters."""


def _maps(inputs: PrunerInput) -> Maps:
    """DeSAP's task map, or None without a question, and its saliency map; both [N]."""
    params = DesapParameters()
    relevance = None
    if inputs.text is not None:
        relevance = task_map(inputs.vision.outputs[joint_output(params)], inputs.text, params)
    return relevance, at_least_float32(inputs.vision.outputs[SALIENCY_LAST])


def _neighbours(grid: tuple[int, int], like: Tensor) -> Tensor:
    """Matrix with 1 where two patches touch, corners included, or are the same, [N, N]."""
    rows, columns = (torch.arange(size, device=like.device) for size in grid)
    near = [((axis[:, None] - axis).abs() <= 1).to(like.dtype) for axis in (rows, columns)]
    return torch.kron(*near)


def _apart(scores: Tensor, taken: Tensor, near: Tensor, count: int) -> Tensor:
    """Mask of `taken` and of the `count` best patches by `scores` beside it, those with the fewest taken neighbours
    first; all [N]."""
    rank = scores.argsort(dim=-1).argsort(dim=-1).to(near.dtype)  # below N, so that one neighbour outweighs any rank
    for _ in range(count):
        crowding = taken @ near
        best = (rank - crowding * rank.shape[-1] - taken * 1e9).argmax(dim=-1, keepdim=True)
        taken = taken.scatter(-1, best, 1.0)
    return taken


def _spread(inputs: PrunerInput, maps: Maps) -> Tensor:
    """Both halves as DeSAP, but a patch beside a kept one is taken only if no other is left."""
    relevance, saliency = maps
    near = _neighbours(inputs.vision.grid, saliency)
    taken, first = torch.zeros_like(saliency), 0
    if relevance is not None:
        first = int(0.5 * inputs.keep + 0.5)
        taken = _apart(relevance, taken, near, first)
    return top_k(_apart(saliency, taken, near, inputs.keep - first), inputs.keep)


def _of(name: str) -> Select:
    """The patches that another pruner keeps."""

    def select(inputs: PrunerInput, maps: Maps) -> Tensor:
        return PRUNERS[name].bind({}).prune(inputs).origins

    return select


def _merge_similar(inputs: PrunerInput, maps: Maps, kept: Tensor) -> PrunedTokens:
    """DeSAP's merging: each other patch is averaged into the most similar token."""
    clusters = assign_to_nearest(inputs.vision.hidden, kept)
    return PrunedTokens(merge_means(inputs.vision.hidden, clusters, kept), kept, clusters, *maps)


def _merge_none(inputs: PrunerInput, maps: Maps, kept: Tensor) -> PrunedTokens:
    """Every other patch is dropped."""
    hidden = inputs.vision.hidden
    features = at_least_float32(take_vectors(hidden, kept))
    return PrunedTokens(features, kept, clusters_of_kept(kept, hidden.shape[-2]), *maps)


def _variant(label: str, select: Select, merge: Merge) -> BoundPruner:
    def prune(inputs: PrunerInput, params: _NoParameters) -> PrunedTokens:
        maps = _maps(inputs)
        return merge(inputs, maps, select(inputs, maps))

    needs = requirements(DesapParameters())
    pruner = Pruner(label, label, _NoParameters, lambda params: needs, prune, reads_text=True)
    return pruner.bind({})


def _own(name: str, **params: object) -> BoundPruner:
    return PRUNERS[name].bind(params)


VARIANTS: Final[dict[str, BoundPruner]] = {
    "none": _own("none"),
    "desap": _own("desap"),
    "uniform": _own("uniform"),
    "fovea": _own("fovea"),
    "desap, task_share 0": _own("desap", task_share=0.0),
    "desap, task_share 1": _own("desap", task_share=1.0),
    "desap, nothing merged": _variant("desap, nothing merged", _of("desap"), _merge_none),
    "desap, tokens 2 patches apart": _variant("desap, spread", _spread, _merge_similar),
    "desap's merging of fovea's tokens": _variant("fovea, mean", _of("fovea"), _merge_similar),
    "uniform, nothing merged": _variant("uniform, nothing merged", _of("uniform"), _merge_none),
    "desap, merge_metric key": _own("desap", merge_metric="key"),
    "desap, cls_layer -2": _own("desap", cls_layer=-2),
    "desap, text_rows words": _own("desap", text_rows="words"),
    "desap, fcma_lambda 100": _own("desap", fcma_lambda=100.0),
}
"""Pruners by label. `desap`, `uniform` and `fovea` come first; the others change one step of `desap` each."""
