"""Keys and values in slots, as caches that the models of transformers read and write.

transformers' own `StaticCache` writes all sequences at one position. Here each sequence has a position of its own, so
it can join and leave while the keys and values of the others stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from llm_service.engine.slots import SlotClass

__all__ = ["CacheShape", "SlotTensors"]

# Maximum number of step sizes whose views of the slots are kept. One more size clears them all.
_MOST_DECODE_CACHES: Final = 64


@dataclass(frozen=True)
class CacheShape:
    """Shape of the cache of one position.

    Attributes:
        num_layers: Layers.
        num_heads: Heads of keys and of values.
        head_dim: Width of a head.
        dtype: Dtype of keys and values.
    """

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype) -> CacheShape:
        """The shape in transformers' configuration of a language model."""
        text = config.get_text_config()
        heads: int = text.num_attention_heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
        return cls(text.num_hidden_layers, getattr(text, "num_key_value_heads", None) or heads, head_dim, dtype)

    @property
    def position_bytes(self) -> int:
        """Bytes of keys and values of one position in all layers."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize


class SlotTensors:
    """Keys and values [slots, heads, length, d] of each layer, for the slots of one class.

    All numbers in free slots are finite: masked positions enter the attention with weight 0, and 0 times NaN is NaN.

    Args:
        slot_class: Length and number of the slots.
        shape: Layers, heads, width and dtype.
        device: Device of the tensors.
    """

    def __init__(self, slot_class: SlotClass, shape: CacheShape, device: torch.device) -> None:
        size = (slot_class.count, shape.num_heads, slot_class.length, shape.head_dim)
        self._layers = [
            (_zeros(size, shape.dtype, device), _zeros(size, shape.dtype, device)) for _ in range(shape.num_layers)
        ]
        self._device = device
        self._decode_caches: dict[tuple[int, int], _DecodeCache] = {}
        # [slots, heads] index of the last position of each head among all vectors of width d
        heads = torch.arange(1, slot_class.count * shape.num_heads + 1, device=device)
        self._ends = (heads * slot_class.length - 1).view(slot_class.count, shape.num_heads)

    def prefill_cache(self, slots: Sequence[int], lengths: Sequence[int]) -> Cache:
        """Cache for the prefill of sequences padded on the right to one length. Their padding is not written.

        Args:
            slots: Index of the slot of each sequence.
            lengths: Number of tokens of each sequence.
        """
        sequences = np.repeat(np.arange(len(slots)), lengths)
        positions = np.concatenate([np.arange(length) for length in lengths])
        index = torch.from_numpy(np.stack([sequences, np.repeat(slots, lengths), positions])).to(self._device)
        source, target = (index[0], index[2]), (index[1], index[2])
        return Cache(layers=[_PrefillLayer(keys, values, source, target) for keys, values in self._layers])

    def decode_cache(self, num_rows: int, length: int, positions_left: Tensor) -> Cache:
        """Cache for decoding one token in each of the first slots. Valid until the next call.

        Args:
            num_rows: R, the number of slots from slot 0.
            length: T, the number of positions that are attended over.
            positions_left: [R] int64, number of positions of each slot behind its new token.
        """
        if (num_rows, length) not in self._decode_caches:
            if len(self._decode_caches) == _MOST_DECODE_CACHES:
                self._decode_caches.clear()
            self._decode_caches[num_rows, length] = _DecodeCache(self._layers, num_rows, length)
        cache = self._decode_caches[num_rows, length]
        cache.target.index = (self._ends[:num_rows] - positions_left[:, None]).view(-1)
        return cache

    def erase(self, slot: int) -> None:
        """Sets a slot to zeros, for a sequence that may have left numbers that are not finite."""
        for keys, values in self._layers:
            keys[slot].zero_()
            values[slot].zero_()


class _SlotLayer(CacheLayerMixin):
    """One layer of a cache in slots, with what transformers asks of a layer."""

    is_sliding = False

    def __init__(self, length: int) -> None:
        super().__init__()
        self.is_initialized = True
        self._length = length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """No-op, because the tensors exist from the start."""

    def get_max_length(self) -> int:
        """Number of positions."""
        return self._length


@dataclass
class _Target:
    """Write indices of a decoding step, [R * heads] among all vectors of width d."""

    index: Tensor


class _PrefillLayer(_SlotLayer):
    def __init__(
        self, keys: Tensor, values: Tensor, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]
    ) -> None:
        super().__init__(keys.shape[2])
        self.keys, self.values = keys, values
        self._source, self._target = source, target

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes keys and values [b, heads, L, d] into the slots, and returns them for the attention."""
        for cached, states in ((self.keys, key_states), (self.values, value_states)):
            cached.transpose(1, 2).index_put_(self._target, states.transpose(1, 2)[self._source])
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys and offset: the prompt alone."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Number of tokens before the prompt."""
        return 0


class _DecodeCache(Cache):
    """Views of the slots for decoding steps of one size."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], num_rows: int, length: int) -> None:
        self.target = _Target(torch.empty(0))
        super().__init__(layers=[_DecodeLayer(keys, values, num_rows, length, self.target) for keys, values in layers])


class _DecodeLayer(_SlotLayer):
    def __init__(self, keys: Tensor, values: Tensor, num_rows: int, length: int, target: _Target) -> None:
        super().__init__(length)
        self.keys, self.values = keys[:num_rows, :, :length], values[:num_rows, :, :length]
        self._flat_keys, self._flat_values = (tensor.view(-1, tensor.shape[3]) for tensor in (keys, values))
        self._target = target

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes one token [R, heads, 1, d] of each slot, and returns keys and values [R, heads, T, d]."""
        index = self._target.index
        self._flat_keys.index_copy_(0, index, key_states.reshape(len(index), -1))
        self._flat_values.index_copy_(0, index, value_states.reshape(len(index), -1))
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys and offset."""
        return self._length, 0

    def get_seq_length(self) -> int:
        """Number of tokens before the new one, as far as transformers' masks need it."""
        return self._length - 1


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. On the CPU the system provides the memory of a slot when the slot is first used."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    zeros = np.zeros(int(np.prod(size)) * dtype.itemsize, np.uint8)
    return torch.from_numpy(zeros).view(dtype).view(size)
