"""Pruning inside the vision tower: what a layer shows after it has run, and who may then shorten the sequence.

The tower calls an object that it was handed; nobody patches its classes. The object is a value (hashable, equal when
it does the same), because features of a tower that it has shortened may only be cached and batched with their like.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["InTowerPruner", "LayerHook", "TowerLayer"]


class TowerLayer(Protocol):
    """A layer that has just run for one picture on 1 + n rows, CLS first, in H heads of width d."""

    @property
    def index(self) -> int:
        """Its place in the tower, from 0."""
        ...

    @property
    def num_layers(self) -> int:
        """V of the whole tower; the language model reads what layer V-2 puts out."""
        ...

    def cls_attention(self) -> Tensor:
        """[H, n]: attention of CLS to each patch, CLS column dropped and not renormalised; at least float32."""
        ...

    def values(self) -> Tensor:
        """[H, 1 + n, d]: the layer's value vectors."""
        ...


class LayerHook(Protocol):
    """One picture on its way through the tower."""

    def after_layer(self, layer: TowerLayer) -> Tensor | None:
        """Called after each of the layers 0 .. V-2: which of the n patches go on.

        Returns:
            [n'], int64, strictly ascending, values in 0..n-1; None for all. CLS always goes on.
        """
        ...


class InTowerPruner(Protocol):
    """What goes into the tower. Hashable; equal to another that chooses alike."""

    def __hash__(self) -> int: ...

    def start(self) -> LayerHook:
        """A hook for one picture."""
        ...
