"""Interface between the vision tower and a pruner that drops patches between its layers.

The tower calls a hook after each layer; none of its classes is patched. An in-tower pruner is a value: it is hashable,
and two that choose alike are equal. Features of a tower that it has pruned are cached and batched only with features of
equal pruners.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["InTowerPruner", "LayerHook", "TowerLayer"]


class TowerLayer(Protocol):
    """Layer that has just run on one tower input of n patches, with H heads of width d."""

    @property
    def index(self) -> int:
        """Number of the layer, from 0."""
        ...

    @property
    def num_layers(self) -> int:
        """V, the layers of the whole tower. The language model reads the output of layer V-2."""
        ...

    def cls_attention(self) -> Tensor:
        """Attention of CLS to each patch, [H, n], at least float32. CLS itself is left out without renormalising."""
        ...

    def values(self) -> Tensor:
        """Value vectors, CLS first, [H, 1 + n, d]."""
        ...


class LayerHook(Protocol):
    """Pruning of one tower input while it passes through the tower."""

    def after_layer(self, layer: TowerLayer) -> Tensor | None:
        """Patches to keep after a layer; called after each of the layers 0 to V-2.

        Returns:
            [n'] int64, strictly ascending, values in 0..n-1; None for all. CLS is always kept.
        """
        ...


class InTowerPruner(Protocol):
    """Pruner that runs inside the tower. Hashable, and equal to another that chooses alike."""

    def __hash__(self) -> int: ...

    def new_hook(self) -> LayerHook:
        """A hook for one tower input."""
        ...
