"""FlowCut (NeurIPS 2025): drops patches inside the tower after every second layer, by an accumulated importance.

The features change too, since later layers attend to fewer patches. Each tile of an image goes through the tower by
itself, padding included; kept patches that show padding are removed after the tower. The method's second stage, for
images in tiles, works inside the language model and is not part of this pruner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.in_tower import TowerLayer
from encoder_service.pruners.merging import clusters_of_kept
from fovea.modeling.numerics import at_least_float32, top_k

__all__ = ["PRUNER", "FlowCut", "importance", "num_kept"]


@dataclass(frozen=True, slots=True)
class FlowCutParameters:
    """No parameters."""


def importance(attention: Tensor, values: Tensor) -> Tensor:
    """Importance (rel + sem) * val of each patch in one layer.

    rel is `attention`, scaled to sum to 1. sem is softmax(v_cls v_j), not divided by sqrt(d), mean over the heads,
    scaled to sum to 1. val is the L1 norm of the mean of the patch's value vectors over the heads.

    Args:
        attention: attention of CLS to each patch, mean over the heads, [n].
        values: value vectors, CLS first, [H, 1 + n, d].

    Returns:
        [n].
    """
    values = at_least_float32(values)
    similarity = torch.softmax((values[:, :1] @ values.transpose(1, 2))[:, 0], dim=-1).mean(dim=0)[1:]
    strength = values[:, 1:].mean(dim=0).abs().sum(dim=-1)
    return (_shares(attention) + _shares(similarity)) * strength


def _shares(weights: Tensor) -> Tensor:
    """Weights scaled to sum to 1. Weights that have underflown to zero stay zero."""
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def num_kept(attention: Tensor, keep: int, layers_left: int) -> int:
    """Number of patches to keep of n: n - round((n - K) / sqrt(r) * (1 - eta^2)), at least K.

    The lower the normalised entropy eta of the attention, the more patches are dropped.

    Args:
        attention: attention of CLS to each patch, mean over the heads, [n], n >= 2.
        keep: K, number of patches to keep at the end.
        layers_left: r, at least 1.
    """
    count, shares = len(attention), _shares(attention)
    eta = float(-torch.xlogy(shares, shares).sum()) / math.log(count)  # xlogy: 0 log 0 = 0
    return max(count - round((count - keep) / math.sqrt(layers_left) * (1 - eta**2)), keep)


@dataclass(frozen=True, slots=True)
class FlowCut:
    """In-tower pruner of FlowCut.

    Attributes:
        keep: K, number of patches to keep.
    """

    keep: int

    def new_hook(self) -> _FlowCutHook:
        """A hook for one tower input."""
        return _FlowCutHook(self.keep)


class _FlowCutHook:
    """Hook for one tower input. Importance accumulates over the layers: I = s at first, then (I + s) / 2."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._importance: Tensor | None = None
        self._is_done = False

    def after_layer(self, layer: TowerLayer) -> Tensor | None:
        if self._is_done:
            return None
        attention = layer.cls_attention().mean(dim=0)
        if len(attention) <= self._keep:
            self._is_done = True
            return None
        score = importance(attention, layer.values())
        self._importance = score if self._importance is None else (self._importance + score) / 2
        last = _last_pruning_layer(layer.num_layers)
        if layer.index == last:
            count = self._keep
        elif layer.index % 2 and layer.index < last:
            count = num_kept(attention, self._keep, layer.num_layers - 3 - layer.index)
        else:
            return None
        kept = top_k(self._importance, count)
        self._importance, self._is_done = self._importance[kept], count == self._keep
        return kept


def _last_pruning_layer(num_layers: int) -> int:
    """The last odd layer up to V-3 (21 of 24 layers); V-2 for a tower of fewer than four layers."""
    last = (num_layers - 4) // 2 * 2 + 1
    return last if last >= 1 else num_layers - 2


def prune(inputs: PrunerInput, params: FlowCutParameters) -> PrunedTokens:
    """The K patches that the tower has kept, in raster order; all others are dropped.

    Raises:
        ValueError: the features are not those of a tower that was pruned to K patches.
    """
    vision = inputs.vision
    if inputs.keep >= vision.num_patches and vision.kept_in_tower is None:
        return PrunedTokens.unpruned(vision)
    kept = vision.kept_in_tower
    if kept is None or kept.shape[-1] != inputs.keep:
        raise ValueError(f"flowcut needs the features of a tower that it has pruned to {inputs.keep} patches")
    return PrunedTokens(at_least_float32(vision.hidden), kept, clusters_of_kept(kept, vision.num_patches))


PRUNER = Pruner(
    name="flowcut",
    summary="Drops tokens inside the vision tower, after every second layer, by the importance accumulated so far.",
    reference="FlowCut, NeurIPS 2025",
    parameters=FlowCutParameters,
    requirements=lambda params: FeatureRequirements(in_tower=FlowCut),
    prune=prune,
)
