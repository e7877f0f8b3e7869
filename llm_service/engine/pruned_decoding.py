"""Decoding with caches whose lengths differ between layers, and position ids that differ with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fovea.modeling.transfers import to_device
from llm_service.engine.decode_buckets import attended_length
from llm_service.engine.decode_masks import DecodeMasks
from llm_service.engine.pruned_prefill import PrefilledSequence
from llm_service.engine.slot_cache import SlotCache, SlotRange
from llm_service.engine.slots import Slot
from llm_service.models.decoder import LayeredDecoder

__all__ = ["PrunedDecoder"]

IntArray = npt.NDArray[np.int64]

_IN_USE: Final = -1  # last row of `_ClassBatch.state`


class PrunedDecoder:
    """Decodes B sequences whose caches differ in length between L layers; their pruning methods may differ.

    Sequences in slots of one class decode together, on the slots from the lowest to the highest in use. Layers of equal
    lengths share one mask, and layers of equal position ids one rotary table.

    Args:
        decoder: Language model.
        cache: Keys and values of all slots.
    """

    def __init__(self, decoder: LayeredDecoder, cache: SlotCache) -> None:
        self._decoder = decoder
        self._cache = cache
        self._masks = [DecodeMasks(decoder.config, cache.dtype, one.length, cache.device) for one in cache.classes]
        self.clear()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def lengths(self) -> IntArray:
        """[B, L] number of cached tokens of each sequence in each layer."""
        return self._lengths.copy()

    def clear(self) -> None:
        """Removes all sequences."""
        self._slots: list[Slot] = []
        self._lengths: IntArray = np.zeros((0, self._decoder.num_layers), np.int64)
        self._next_position_ids: IntArray = self._lengths
        self._batches: list[_ClassBatch] | None = None

    def append(self, sequences: Sequence[PrefilledSequence], slots: Sequence[Slot]) -> None:
        """Writes prefilled sequences into their slots, and appends them. If it fails, the batch is unchanged."""
        for sequence, slot in zip(sequences, slots, strict=True):
            self._cache.store(slot, ((keys, values) for keys, values, *_ in sequence.cache))
        lengths = [[keys.shape[2] for keys, *_ in sequence.cache] for sequence in sequences]
        next_position_ids = [sequence.next_position_ids.tolist() for sequence in sequences]
        self._lengths = np.vstack([self._lengths, np.array(lengths, np.int64)])
        self._next_position_ids = np.vstack([self._next_position_ids, np.array(next_position_ids, np.int64)])
        self._slots += slots
        self._batches = None

    def keep(self, indices: Sequence[int]) -> None:
        """Removes all sequences but those with the given indices, which stay in the given order."""
        self._lengths = self._lengths[list(indices)]
        self._next_position_ids = self._next_position_ids[list(indices)]
        self._slots = [self._slots[i] for i in indices]
        self._batches = None

    def decode(self, embeddings: Tensor) -> Tensor:
        """Runs one token of each sequence. If it fails, the sequences must be removed with `clear`.

        Args:
            embeddings: [B, D] embeddings of the tokens.

        Returns:
            [B, D] states after the final norm.
        """
        if self._batches is None:
            self._batches = self._new_batches()
        states = torch.empty_like(embeddings)
        for batch in self._batches:
            decoded = self._decode_batch(batch, embeddings.index_select(0, batch.members_index))
            states.index_copy_(0, batch.members_index, decoded)
        self._lengths = self._lengths + 1
        self._next_position_ids = self._next_position_ids + 1
        return states

    def _decode_batch(self, batch: _ClassBatch, embeddings: Tensor) -> Tensor:
        """[b, D] states of the sequences in the slots of one class."""
        rows, masks = batch.rows, self._masks[batch.rows.class_index]
        num_rows, slot_length = rows.end - rows.first, self._cache.classes[rows.class_index].length
        longest = self._lengths[batch.members].max(axis=0) + 1
        lengths = tuple(attended_length(int(positions), slot_length, few=False) for positions in longest)
        positions_left, position_ids, in_use = batch.positions_left, batch.position_ids, batch.state[_IN_USE]
        is_in_use = in_use[:, None] > 0
        indices = [self._cache.decode_index(rows, one, is_in_use) for one in positions_left]
        group_lengths = [lengths[batch.length_group.index(group)] for group in range(len(positions_left))]
        group_masks = [masks.masks(*pair) for pair in zip(positions_left, group_lengths, strict=True)]
        cache = self._cache.decode_cache(rows, lengths)
        cache.write_at(indices[group] for group in batch.length_group)
        tables = [table.split(num_rows) for table in self._decoder.rotary(position_ids.reshape(-1, 1))]
        hidden = embeddings.new_zeros(num_rows, 1, embeddings.shape[1])
        hidden[:, 0].index_copy_(0, batch.slots_index, embeddings)
        for layer in range(self._decoder.num_layers):
            rotary = tuple(table[batch.position_group[layer]] for table in tables)
            hidden = self._decoder.layer(layer, hidden, rotary, group_masks[batch.length_group[layer]], cache)  # type: ignore[arg-type]
        positions_left.sub_(in_use)
        position_ids.add_(in_use)
        return self._decoder.norm(hidden[:, 0].index_select(0, batch.slots_index))

    def _new_batches(self) -> list[_ClassBatch]:
        return [
            self._new_batch(class_index, [i for i, slot in enumerate(self._slots) if slot.class_index == class_index])
            for class_index in sorted({slot.class_index for slot in self._slots})
        ]

    def _new_batch(self, class_index: int, members: list[int]) -> _ClassBatch:
        slots = [self._slots[i].index for i in members]
        rows = SlotRange(class_index, min(slots), max(slots) + 1)
        num_rows = rows.end - rows.first
        slot_index = np.array(slots) - rows.first
        lengths, length_group = np.unique(self._lengths[members], axis=1, return_inverse=True)
        position_ids, position_group = np.unique(self._next_position_ids[members], axis=1, return_inverse=True)
        num_lengths, num_positions = lengths.shape[1], position_ids.shape[1]
        state = np.zeros((num_lengths + num_positions + 1, num_rows), np.int64)
        state[:num_lengths, slot_index] = self._cache.classes[class_index].length - 1 - lengths.T
        state[num_lengths:_IN_USE, slot_index] = position_ids.T
        state[_IN_USE, slot_index] = 1
        sent = to_device(torch.from_numpy(np.concatenate([state.ravel(), members, slot_index])), self._cache.device)
        on_device, members_index, slots_index = sent.split([state.size, len(members), len(members)])
        return _ClassBatch(
            rows,
            members,
            length_group.ravel().tolist(),
            position_group.ravel().tolist(),
            on_device.view(state.shape),
            num_lengths,
            members_index,
            slots_index,
        )


@dataclass(frozen=True)
class _ClassBatch:
    """The sequences in the slots of one class.

    Attributes:
        rows: Slots of a step, R of them.
        members: Indices of the sequences.
        length_group: [L] which of the `positions_left` each layer uses.
        position_group: [L] which of the `position_ids` each layer uses.
        state: [G, R] on the device: positions behind the new token for each distinct length, position ids for each
            distinct one, and 1 for slots in use.
        num_lengths: Number of distinct lengths.
        members_index: `members` on the device.
        slots_index: Index of each member's slot among the rows, on the device.
    """

    rows: SlotRange
    members: list[int]
    length_group: list[int]
    position_group: list[int]
    state: Tensor
    num_lengths: int
    members_index: Tensor
    slots_index: Tensor

    @property
    def positions_left(self) -> Tensor:
        """[number of distinct lengths, R] positions of a slot behind its new token."""
        return self.state[: self.num_lengths]

    @property
    def position_ids(self) -> Tensor:
        """[number of distinct position ids, R]."""
        return self.state[self.num_lengths : _IN_USE]
