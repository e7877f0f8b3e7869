"""Attention masks of decoding steps whose sequences have different lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["DecodeMasks"]

_SLIDING = "sliding_attention"


class DecodeMasks:
    """Masks of the slots of one class, in the form that a language model of transformers takes.

    For each kind of layer there is one vector: positions that are not attended, then those that are, then more that are
    not. The mask of a token at position p is the section of it that begins at S - 1 - p. A step only selects sections.

    Args:
        config: transformers' configuration of the model.
        dtype: Dtype of the computation.
        slot_length: S, the positions of a slot.
        device: Device of the model.
    """

    def __init__(self, config: Any, dtype: torch.dtype, slot_length: int, device: torch.device) -> None:
        text = config.get_text_config()
        self._is_flash = config._attn_implementation.startswith("flash")
        window: int | None = getattr(text, "sliding_window", None)
        layer_types = sorted(set(getattr(text, "layer_types", None) or (_SLIDING,)))
        if self._is_flash:  # the kernel applies windows itself, and takes one mask of truth values for all layers
            layer_types, window = layer_types[:1], None
        self._vectors = {
            kind: self._vector(window if kind == _SLIDING else None, dtype, slot_length, device) for kind in layer_types
        }
        self._length = 0
        self._tables: dict[str, Tensor] = {}

    def masks(self, positions_left: Tensor, length: int) -> Tensor | dict[str, Tensor]:
        """Masks for one token of each sequence, which attends to itself and to the positions before it.

        Args:
            positions_left: [R] int64, positions of a slot behind its token: S - 1 - p for a token at position p.
            length: T, the number of positions that are attended over.

        Returns:
            One mask if all layers attend alike, else one for each kind of layer.
        """
        if length != self._length:
            self._length = length
            self._tables = {kind: self._table(vector, length) for kind, vector in self._vectors.items()}
        masks = {kind: table.index_select(0, positions_left) for kind, table in self._tables.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _vector(self, window: int | None, dtype: torch.dtype, slot_length: int, device: torch.device) -> Tensor:
        """Vector [2 S] of masks: element S - 1 - p + k is the mask of position k for a token at position p."""
        distance = slot_length - 1 - torch.arange(2 * slot_length, device=device)
        is_attended = (distance >= 0) & (distance < (window or slot_length))
        if self._is_flash:
            return is_attended
        zeros = torch.zeros(distance.shape, dtype=dtype, device=device)
        return zeros.masked_fill(~is_attended, torch.finfo(dtype).min)

    def _table(self, vector: Tensor, length: int) -> Tensor:
        """[rows, 1, 1, T] view of all sections of a vector; [rows, T] for flash attention."""
        table = vector.unfold(0, length, 1)
        return table if self._is_flash else table[:, None, None]
