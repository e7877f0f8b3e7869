"""Keys and values in slots, as caches that the models of transformers read and write.

transformers' own `StaticCache` writes all sequences at one position. Here each sequence has a position of its own, so
it can join and leave while the keys and values of the others stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from llm_service.engine.slot_layers import ChunkLayer, DecodeCache, DecodeLayer, Pair, PrefillLayer
from llm_service.engine.slots import Slot, SlotClass
from llm_service.models.base import VisionLanguageModel

__all__ = ["CacheShape", "SlotCache", "SlotRange"]


# Maximum number of step sizes whose views of the slots are kept. One more size clears them all.
_MOST_DECODE_CACHES: Final = 128


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


@dataclass(frozen=True)
class _ClassLayout:
    """Where the slots of one class are among the vectors of a layer.

    Attributes:
        first: Index of the first vector.
        length: Positions of a slot.
        count: Number of slots.
    """

    first: int
    length: int
    count: int


@dataclass(frozen=True)
class SlotRange:
    """Consecutive slots of one class, which a step runs on.

    Attributes:
        class_index: Index of the class.
        first: Index of the first slot.
        end: Index behind the last slot.
    """

    class_index: int
    first: int
    end: int


class SlotCache:
    """Keys and values of all slots.

    A layer has one tensor of vectors of width d for keys and one for values. Slots follow each other, class by class.
    Within a slot, vectors are ordered by head, then by position. One more vector at the end takes what belongs to no
    sequence: padding of a prefill, and tokens of slots that are not in use. It is never read.

    All numbers in free slots are finite: masked positions enter the attention with weight 0, and 0 times NaN is NaN.

    Args:
        classes: Length and number of the slots of each class.
        shape: Layers, heads, width and dtype.
        device: Device of the tensors.

    Attributes:
        classes: Length and number of the slots of each class.
        num_layers: Layers.
        position_bytes: Bytes of one position in all layers.
        dtype: Dtype of keys and values.
        device: Device of the tensors.
    """

    def __init__(self, classes: Sequence[SlotClass], shape: CacheShape, device: torch.device) -> None:
        self.classes = tuple(classes)
        self.num_layers = shape.num_layers
        self.position_bytes = shape.position_bytes
        self.dtype = shape.dtype
        self.device = device
        self._heads = shape.num_heads
        self._layouts: list[_ClassLayout] = []
        end = 0
        for slot_class in classes:
            self._layouts.append(_ClassLayout(end, slot_class.length, slot_class.count))
            end += slot_class.count * slot_class.length * self._heads
        self._spare = end
        size = (end + 1, shape.head_dim)
        self._layers = [
            (_zeros(size, shape.dtype, device), _zeros(size, shape.dtype, device)) for _ in range(shape.num_layers)
        ]
        self._decode_caches: dict[tuple[SlotRange, tuple[int, ...]], DecodeCache] = {}
        self._head_index = torch.arange(self._heads, device=device)
        # Index of the last position of each head [slots, heads], by class.
        self._ends = [
            (layout.first + torch.arange(1, layout.count * self._heads + 1, device=device) * layout.length - 1).view(
                layout.count, self._heads
            )
            for layout in self._layouts
        ]

    @classmethod
    def for_model(cls, model: VisionLanguageModel, classes: Sequence[SlotClass]) -> SlotCache:
        """Cache of a loaded model."""
        return cls(classes, CacheShape.of(model.causal_lm.config, model.dtype), model.device)

    def location(self, slot: Slot) -> tuple[int, int]:
        """Index of the first vector of a slot, and its number of positions."""
        layout = self._layouts[slot.class_index]
        return layout.first + slot.index * layout.length * self._heads, layout.length

    def prefill_index(self, first: Tensor, slot_length: Tensor, num_tokens: Tensor, padded_length: int) -> Tensor:
        """[b * heads * L] where a layer writes the tokens of b prompts, which are padded on the right to one length.

        Args:
            first: [b] int64, index of the first vector of each prompt's slot.
            slot_length: [b] int64, positions of each slot.
            num_tokens: [b] int64, tokens of each prompt.
            padded_length: L, the length of all with padding.
        """
        position = torch.arange(padded_length, device=first.device)
        heads = first[:, None] + self._head_index * slot_length[:, None]
        index = torch.where(
            (position < num_tokens[:, None])[:, None], heads[:, :, None] + position, self._spare
        )  # [b, heads, L]
        return index.view(-1)

    def prefill_cache(self, index: Tensor) -> Cache:
        """Cache for the prefill of prompts that are written at `prefill_index`."""
        return Cache(layers=[PrefillLayer(keys, values, index) for keys, values in self._layers])

    def chunk_cache(self, slot: Slot, offset: int, num_tokens: int) -> Cache:
        """Cache for a chunk of one prompt, which attends to the chunks before it.

        Args:
            slot: Slot of the prompt.
            offset: Tokens in the chunks before.
            num_tokens: Tokens of this chunk.
        """
        slots = (
            (self._of_class(keys, slot.class_index)[slot.index], self._of_class(values, slot.class_index)[slot.index])
            for keys, values in self._layers
        )
        return Cache(layers=[ChunkLayer(keys, values, offset, num_tokens) for keys, values in slots])

    def store(self, slot: Slot, layers: Iterable[Pair]) -> None:
        """Writes the keys and values [1, heads, T_k, d] of each layer k into a slot; T_k may differ between layers."""
        for pair, states in zip(self._layers, layers, strict=True):
            for tensor, new in zip(pair, states, strict=True):
                self._of_class(tensor, slot.class_index)[slot.index, :, : new.shape[2]] = new[0]

    def decode_cache(self, rows: SlotRange, lengths: tuple[int, ...]) -> DecodeCache:
        """Cache for decoding one token in each of some slots.

        Args:
            rows: The slots.
            lengths: Positions that each layer attends over.
        """
        if (rows, lengths) not in self._decode_caches:
            if len(self._decode_caches) == _MOST_DECODE_CACHES:
                self._decode_caches.clear()
            layers = []
            for (keys, values), length in zip(self._layers, lengths, strict=True):
                attended = [
                    self._of_class(tensor, rows.class_index)[rows.first : rows.end, :, :length]
                    for tensor in (keys, values)
                ]
                layers.append(DecodeLayer(keys, values, *attended))
            self._decode_caches[rows, lengths] = DecodeCache(layers)
        return self._decode_caches[rows, lengths]

    def decode_index(self, rows: SlotRange, positions_left: Tensor, in_use: Tensor) -> Tensor:
        """Where a layer writes the tokens of a step, for `DecodeCache.write_at`.

        Args:
            rows: The R slots.
            positions_left: [R] int64, number of positions of each slot behind its new token.
            in_use: [R, 1] bool; the tokens of other slots are written nowhere.
        """
        index = self._ends[rows.class_index][rows.first : rows.end] - positions_left[:, None]
        return torch.where(in_use, index, self._spare).view(-1)

    def vectors(self, index: Tensor) -> Tensor:
        """[2 * layers, len(index), d] keys and values at an index among the vectors of a layer."""
        return torch.stack([tensor.index_select(0, index) for pair in self._layers for tensor in pair])

    def clear_vectors(self, index: Tensor) -> None:
        """Sets the keys and values at an index to zeros."""
        for pair in self._layers:
            for tensor in pair:
                tensor.index_fill_(0, index, 0)

    def erase(self, slot: Slot, num_positions: int) -> None:
        """Sets the first positions of a slot to zeros, where a sequence may have left numbers that are not finite."""
        for pair in self._layers:
            for tensor in pair:
                self._of_class(tensor, slot.class_index)[slot.index, :, :num_positions].zero_()

    def erase_all(self) -> None:
        """Sets all slots to zeros."""
        for pair in self._layers:
            for tensor in pair:
                tensor.zero_()

    def _of_class(self, tensor: Tensor, class_index: int) -> Tensor:
        """[slots, heads, length, d] view of the slots of a class."""
        layout = self._layouts[class_index]
        num_vectors = layout.count * self._heads * layout.length
        slots = tensor[layout.first : layout.first + num_vectors]
        return slots.view(layout.count, self._heads, layout.length, -1)


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. On the CPU the system provides the memory of a slot when the slot is first used."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    zeros = np.zeros(int(np.prod(size)) * dtype.itemsize, np.uint8)
    return torch.from_numpy(zeros).view(dtype).view(size)
