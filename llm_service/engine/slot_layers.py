"""Layers of the caches in slots, with what transformers asks of the layers of a cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["ChunkLayer", "DecodeCache", "DecodeLayer", "Pair", "PrefillLayer"]

Pair = tuple[Tensor, Tensor]
"""Keys and values."""


class _SlotLayer(CacheLayerMixin):
    """One layer of a cache in slots, with what transformers asks of a layer.

    Args:
        length: Positions that are attended over.
        offset: Tokens before the new ones, as far as transformers' masks need it.
    """

    is_sliding = False

    def __init__(self, length: int, offset: int) -> None:
        super().__init__()
        self.is_initialized = True
        self._length = length
        self._offset = offset

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """No-op, because the tensors exist from the start."""

    def get_max_length(self) -> int:
        """Positions that are attended over."""
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys and offset."""
        return self._length, 0

    def get_seq_length(self) -> int:
        """Offset that transformers takes for its masks. Decoding has masks of its own."""
        return self._offset


class PrefillLayer(_SlotLayer):
    """Layer for the prefill of whole prompts.

    Args:
        keys: Keys of all slots, vectors of width d.
        values: Values of all slots.
        index: [b * heads * L] where each vector is written.
    """

    def __init__(self, keys: Tensor, values: Tensor, index: Tensor) -> None:
        super().__init__(0, 0)
        self.keys, self.values = keys, values
        self._index = index

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes keys and values [b, heads, L, d] into the slots, and returns them for the attention."""
        for cached, states in ((self.keys, key_states), (self.values, value_states)):
            cached.index_copy_(0, self._index, states.reshape(len(self._index), -1))
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys and offset: the prompts alone."""
        return query_length, 0


class ChunkLayer(_SlotLayer):
    """Layer for a chunk of a prompt.

    Args:
        keys: [heads, S, d] keys of the prompt's slot.
        values: [heads, S, d] values.
        offset: Tokens of the prompt before the chunk.
        num_tokens: Tokens of the chunk.
    """

    def __init__(self, keys: Tensor, values: Tensor, offset: int, num_tokens: int) -> None:
        super().__init__(offset + num_tokens, offset)
        self.keys, self.values = (tensor[None, :, : offset + num_tokens] for tensor in (keys, values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes keys and values [1, heads, num_tokens, d] of the chunk, and returns them with all before."""
        self.keys[:, :, self._offset :] = key_states
        self.values[:, :, self._offset :] = value_states
        return self.keys, self.values


class DecodeCache(Cache):
    """Views of some slots for decoding steps of one size. See `SlotCache.decode_cache`."""

    def __init__(self, layers: list[DecodeLayer]) -> None:
        self._decode_layers = layers
        super().__init__(layers=layers)

    def write_at(self, indices: Iterable[Tensor]) -> None:
        """Sets where each layer writes in the next step; see `SlotCache.decode_index`."""
        for layer, index in zip(self._decode_layers, indices, strict=True):
            layer.index = index


class DecodeLayer(_SlotLayer):
    """Layer for decoding steps of one size.

    Args:
        flat_keys: Keys of all slots, vectors of width d.
        flat_values: Values of all slots.
        keys: [R, heads, T, d] view of the keys that a step attends over.
        values: [R, heads, T, d] view of the values.

    Attributes:
        index: Indices at which a step writes, [R * heads] among all vectors.
    """

    def __init__(self, flat_keys: Tensor, flat_values: Tensor, keys: Tensor, values: Tensor) -> None:
        length = keys.shape[2]
        super().__init__(length, length - 1)
        self.keys, self.values = keys, values
        self.index = torch.empty(0)
        self._flat_keys, self._flat_values = flat_keys, flat_values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """Writes one token [R, heads, 1, d] of each slot, and returns keys and values [R, heads, T, d]."""
        self._flat_keys.index_copy_(0, self.index, key_states.reshape(len(self.index), -1))
        self._flat_values.index_copy_(0, self.index, value_states.reshape(len(self.index), -1))
        return self.keys, self.values
