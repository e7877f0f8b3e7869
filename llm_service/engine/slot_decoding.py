"""Decoding steps of the slots of one class: their state, and the forward pass as a function of static tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fovea.modeling.transfers import to_device
from llm_service.engine.decode_buckets import attended_length, num_step_slots
from llm_service.engine.decode_masks import DecodeMasks
from llm_service.engine.slot_cache import SlotCache, SlotRange
from llm_service.models.base import VisionLanguageModel

__all__ = ["SlotDecoder"]


class SlotDecoder:
    """Decodes one token in each slot in use of a class.

    A step runs on the first slots, which include all in use. The tokens of the others are not read. The state of the
    slots is on the device and is advanced there. It is sent again after a slot is added or removed.

    Args:
        model: Language model.
        cache: Keys and values of all slots.
        class_index: Index of the class.
        position_axes: Leading axes of the model's position ids, before [B, T].
        few_sizes: Whether steps have few sizes; see `decode_buckets`.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        cache: SlotCache,
        class_index: int,
        position_axes: torch.Size,
        *,
        few_sizes: bool,
    ) -> None:
        slot_class = cache.classes[class_index]
        self.slot_class = slot_class
        self.class_index = class_index
        self._causal_lm: Any = model.causal_lm
        self._device = model.device
        self._cache = cache
        self._masks = DecodeMasks(model.causal_lm.config, model.dtype, slot_class.length, model.device)
        self._position_axes = position_axes
        self._few_sizes = few_sizes
        self._num_cached = [0] * slot_class.count
        self._next_position_ids = [0] * slot_class.count
        self._in_use: set[int] = set()
        self._is_sent = False
        # Rows: id of the last token, its position id, positions of the slot behind it. The last two are incremented.
        self._state = torch.zeros(3, slot_class.count, dtype=torch.int64, device=model.device)
        self._increments = torch.zeros(2, slot_class.count, dtype=torch.int64, device=model.device)
        self._is_in_use = torch.zeros(slot_class.count, 1, dtype=torch.bool, device=model.device)
        self._order_index = torch.empty(0)

    def add(self, index: int, num_tokens: int, next_position_id: int) -> None:
        """Takes a slot into use.

        Args:
            index: Index of the slot.
            num_tokens: Cached tokens of its prompt.
            next_position_id: Position id of the first decoded token.
        """
        self._num_cached[index] = num_tokens
        self._next_position_ids[index] = next_position_id
        self._in_use.add(index)
        self._is_sent = False

    def remove(self, index: int) -> None:
        """Takes a slot out of use."""
        self._num_cached[index] = 0
        self._in_use.discard(index)
        self._is_sent = False

    def step_size(self) -> tuple[int, int]:
        """Number of slots and of attended positions of the next step."""
        rows = num_step_slots(max(self._in_use), self.slot_class.count, few=self._few_sizes)
        longest = max(self._num_cached[index] for index in self._in_use) + 1
        return rows, attended_length(longest, self.slot_class.length, few=self._few_sizes)

    def write_inputs(self, indices: Sequence[int], token_ids: Tensor) -> None:
        """Writes the inputs of the next step.

        Args:
            indices: Indices of all B slots in use.
            token_ids: [B] int64 ids of their last tokens, on the device.
        """
        if not self._is_sent:
            self._send(indices)
        self._state[0].index_copy_(0, self._order_index, token_ids)

    def forward(self, num_slots: int, length: int) -> Tensor:
        """[R, V] logits of the first R slots, from the state on the device.

        Args:
            num_slots: R.
            length: Positions that are attended over.
        """
        input_ids, position_ids, positions_left = self._state[:, :num_slots]
        cache = self._cache.decode_cache(self._range(num_slots), (length,) * self._cache.num_layers)
        cache.write_at([self._index(num_slots, positions_left)] * self._cache.num_layers)
        output = self._causal_lm(
            input_ids=input_ids[:, None],
            attention_mask=self._masks.masks(positions_left, length),
            position_ids=position_ids.view(num_slots, 1).expand(*self._position_axes, num_slots, 1),
            past_key_values=cache,
            use_cache=True,
        )
        logits: Tensor = output.logits.squeeze(1)
        return logits

    def write_index(self, num_slots: int) -> Tensor:
        """Where each layer writes the tokens of a step; see `SlotCache.decode_index`."""
        return self._index(num_slots, self._state[2, :num_slots])

    def _index(self, num_slots: int, positions_left: Tensor) -> Tensor:
        return self._cache.decode_index(self._range(num_slots), positions_left, self._is_in_use[:num_slots])

    def _range(self, num_slots: int) -> SlotRange:
        return SlotRange(self.class_index, 0, num_slots)

    def advance(self) -> None:
        """Moves all slots in use on by one token."""
        for index in self._in_use:
            self._num_cached[index] += 1
            self._next_position_ids[index] += 1
        self._state[1:].add_(self._increments)

    def select_in_use(self, logits: Tensor) -> Tensor:
        """[B, V] float32 logits of the slots in use, in the order of `write_inputs`, selected from those of a step."""
        return logits.index_select(0, self._order_index).float()

    def fill_randomly(self, length: int, vocab_size: int, generator: torch.Generator) -> None:
        """Fills the state on the device with random tokens and positions below `length`, to compare two forwards."""
        count = self.slot_class.count
        positions = torch.randint(length, (count,), generator=generator)
        token_ids = torch.randint(vocab_size, (count,), generator=generator)
        left = self.slot_class.length - 1 - positions
        self._state.copy_(torch.stack([token_ids, positions, left]))
        self._is_in_use.fill_(True)
        self._is_sent = False

    def _send(self, indices: Sequence[int]) -> None:
        count = self.slot_class.count
        positions_left = [self.slot_class.length - 1 - cached for cached in self._num_cached]
        in_use = [int(index in self._in_use) for index in range(count)]
        sent = to_device(torch.tensor([*self._next_position_ids, *positions_left, *in_use, *indices]), self._device)
        self._state[1:].copy_(sent[: 2 * count].view(2, count))
        on_device = sent[2 * count : 3 * count]
        self._is_in_use.copy_(on_device[:, None])
        self._increments.copy_(torch.stack([on_device, -on_device]))
        self._order_index = sent[3 * count :]
        self._is_sent = True
