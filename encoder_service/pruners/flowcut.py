"""FlowCut (NeurIPS 2025): patches leave inside the tower, a few every second layer, by importance gathered on the way.

It changes the features themselves, since later layers attend to fewer patches. Of a tiled picture each tile goes
through by itself, padding and all; what is left of the padding is cut away behind the tower. The method's second stage
for tiled pictures works inside the language model and is not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput
from encoder_service.pruners.in_tower import TowerLayer
from fovea.modeling.numerics import at_least_float32, top_k

__all__ = ["PRUNER", "FlowCut", "importance", "num_left"]


@dataclass(frozen=True, slots=True)
class FlowCutParameters:
    """It has none."""


def importance(attention: Tensor, values: Tensor) -> Tensor:
    """(rel + sem) * val of one layer: attended by CLS, alike CLS in its values, and strong.

    rel is `attention` scaled to sum 1; sem the same of softmax(v_cls v_j), not divided by sqrt(d), mean over the heads;
    val the L1 norm of the patch's value vector, mean over the heads.

    Args:
        attention: Of CLS to each patch, mean over the heads, [n].
        values: [H, 1 + n, d], CLS first.

    Returns:
        [n].
    """
    values = at_least_float32(values)
    similarity = torch.softmax((values[:, :1] @ values.transpose(1, 2))[:, 0], dim=-1).mean(dim=0)[1:]
    strength = values[:, 1:].mean(dim=0).abs().sum(dim=-1)
    return (_shares(attention) + _shares(similarity)) * strength


def _shares(weights: Tensor) -> Tensor:
    """Scaled to sum 1. Weights that have underflown to nothing stay nothing."""
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def num_left(attention: Tensor, keep: int, layers_left: int) -> int:
    """How many of n patches stay: n - round((n - K) / sqrt(r) * (1 - eta^2)), K at least.

    The more peaked the attention (entropy eta of 0 to 1), the more leave.

    Args:
        attention: Of CLS, mean over the heads, [n], n >= 2.
        keep: K.
        layers_left: r, at least 1.
    """
    count, shares = len(attention), _shares(attention)
    eta = float(-torch.xlogy(shares, shares).sum()) / math.log(count)  # xlogy: a share of 0 adds 0, not NaN
    return max(count - round((count - keep) / math.sqrt(layers_left) * (1 - eta**2)), keep)


@dataclass(frozen=True, slots=True)
class FlowCut:
    """What goes into the tower.

    Attributes:
        keep: K.
    """

    keep: int

    def start(self) -> _Flow:
        """A hook for one picture."""
        return _Flow(self.keep)


class _Flow:
    """One picture. Importance is a running mean over the layers: I = s at first, then (I + s) / 2."""

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
            count = num_left(attention, self._keep, layer.num_layers - 3 - layer.index)
        else:
            return None
        kept = top_k(self._importance, count)
        self._importance, self._is_done = self._importance[kept], count == self._keep
        return kept


def _last_pruning_layer(num_layers: int) -> int:
    """The last odd layer up to V-3 (21 of 24); of a tower so short that there is none, the last that is read, V-2."""
    last = (num_layers - 4) // 2 * 2 + 1
    return last if last >= 1 else num_layers - 2


def prune(job: PrunerInput, params: FlowCutParameters) -> PrunedTokens:
    """The K patches that the tower has left, in raster order; the others leave no trace.

    Raises:
        ValueError: The tower has not left K.
    """
    vision = job.vision
    if job.keep >= vision.num_patches and vision.kept_in_tower is None:
        return PrunedTokens.all_of(vision)
    if vision.kept_in_tower is None or len(vision.kept_in_tower) != job.keep:
        raise ValueError(f"flowcut needs the features of a tower that it has pruned to {job.keep} patches")
    cluster_of_patch = torch.full((vision.num_patches,), -1, device=vision.hidden.device)
    cluster_of_patch[vision.kept_in_tower] = torch.arange(job.keep, device=cluster_of_patch.device)
    return PrunedTokens(at_least_float32(vision.hidden), vision.kept_in_tower, cluster_of_patch)


PRUNER = Pruner(
    name="flowcut",
    summary="Drops tokens inside the vision tower, layer by layer, by attention, likeness to CLS and strength.",
    reference="FlowCut, NeurIPS 2025",
    parameters=FlowCutParameters,
    requirements=lambda params: FeatureRequirements(in_tower=FlowCut),
    prune=prune,
)
