"""Forward passes of a continuous batch whose keys and values are in slots."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  # its usual name

from llm_service.engine.decode_buckets import attended_length, num_rows
from llm_service.engine.decode_masks import DecodeMasks
from llm_service.engine.slot_cache import CacheShape, SlotTensors
from llm_service.engine.slots import Slot, SlotClass
from llm_service.models.base import ModelInputs, VisionLanguageModel

__all__ = ["ModelRunner", "SlotInputs"]

# Eight prompts fill a device. Larger groups take as much time for each prompt, and more memory.
_PREFILL_GROUP: Final = 8


@dataclass(frozen=True)
class SlotInputs:
    """A prompt to prefill, and the slot that its keys and values are written to.

    Attributes:
        inputs: Embeddings and position ids.
        slot: A slot of at least as many positions as prompt and answer have, of no other sequence.
    """

    inputs: ModelInputs
    slot: Slot

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.inputs.inputs_embeds)


class _SlotStates:
    """Host state of the slots of one class.

    Attributes:
        length: Positions of a slot.
        count: Number of slots.
        lengths: Number of cached tokens of each slot; 0 for slots that are not in use.
        next_position_ids: Position id of the next token of each slot.
    """

    def __init__(self, slot_class: SlotClass) -> None:
        self.length = slot_class.length
        self.count = slot_class.count
        self.lengths = [0] * slot_class.count
        self.next_position_ids = [0] * slot_class.count


class ModelRunner:
    """Prefills and decodes on tensors alone.

    A sequence stays in its slot. Adding or removing it neither reads nor writes another one's keys and values. Each
    class of slots decodes by itself, on its first slots up to the highest in use. A slot between them that is not in
    use computes a token that is not read.

    Args:
        model: Language model.
        classes: Classes of the slots.
    """

    def __init__(self, model: VisionLanguageModel, classes: Sequence[SlotClass]) -> None:
        self._causal_lm = model.causal_lm
        self._device = model.device
        self._few_sizes = model.device.type != "cpu"
        config, dtype = model.causal_lm.config, model.dtype
        shape = CacheShape.of(config, dtype)
        self._tensors = [SlotTensors(slot_class, shape, model.device) for slot_class in classes]
        self._masks = [DecodeMasks(config, dtype, slot_class.length, model.device) for slot_class in classes]
        self._states = [_SlotStates(slot_class) for slot_class in classes]
        self._position_axes = torch.Size()  # leading axes of the position ids, before [B, T]
        self._slots: list[Slot] = []  # of the sequences, in order

    def __len__(self) -> int:
        return len(self._slots)

    def clear(self) -> None:
        """Removes all sequences."""
        self.keep([])

    def erase(self, slot: Slot) -> None:
        """Sets a slot to zeros. Needed after a failure, which may leave numbers that are not finite."""
        self._tensors[slot.class_index].erase(slot.index)

    def prefill(self, prompts: Sequence[SlotInputs]) -> torch.Tensor:
        """Runs b prompts and appends them to the batch. If it fails, the batch is unchanged.

        Returns:
            [b, V] float32 logits of the first tokens.
        """
        logits: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
        for group in _groups(prompts):
            group_logits = self._prefill_group([prompts[i] for i in group])
            for i, prompt_logits in zip(group, group_logits, strict=True):
                logits[i] = prompt_logits
        for prompt in prompts:
            state = self._states[prompt.slot.class_index]
            state.lengths[prompt.slot.index] = prompt.length
            state.next_position_ids[prompt.slot.index] = prompt.inputs.next_position_id
            self._slots.append(prompt.slot)
        return torch.stack(logits)

    def _prefill_group(self, prompts: Sequence[SlotInputs]) -> torch.Tensor:
        """[b, V] logits of prompts whose slots are of one class.

        Padding is on the right, where no token attends to it, so that the attention needs no mask.
        """
        lengths = [prompt.length for prompt in prompts]
        padded = [(prompt.inputs, max(lengths) - prompt.length) for prompt in prompts]
        position_ids = torch.stack([F.pad(inputs.position_ids, (0, right)) for inputs, right in padded], dim=-2)
        ends = sorted(set(lengths))
        tensors = self._tensors[prompts[0].slot.class_index]
        output = self._causal_lm(
            inputs_embeds=torch.stack([F.pad(inputs.inputs_embeds, (0, 0, 0, right)) for inputs, right in padded]),
            position_ids=position_ids,  # [b, T], or [3, b, T] for position ids with three axes
            past_key_values=tensors.prefill_cache([prompt.slot.index for prompt in prompts], lengths),
            use_cache=True,
            logits_to_keep=torch.tensor(ends, device=self._device) - 1,
        )
        self._position_axes = position_ids.shape[:-2]
        end = torch.tensor([ends.index(length) for length in lengths], device=self._device)
        logits: torch.Tensor = output.logits[torch.arange(len(prompts), device=self._device), end]
        return logits.float()

    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Runs one token of each of the B sequences. If it fails, the batch must be cleared with `clear`.

        Returns:
            [B, V] float32 logits of the next tokens.
        """
        logits, order = [], []
        for class_index in sorted({slot.class_index for slot in self._slots}):
            members = [i for i, slot in enumerate(self._slots) if slot.class_index == class_index]
            logits.append(self._decode_class(class_index, members, [token_ids[i] for i in members]))
            order += members
        if len(logits) == 1:
            return logits[0]
        return torch.cat(logits)[torch.from_numpy(np.argsort(order)).to(self._device)]

    def _decode_class(self, class_index: int, members: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        """[b, V] logits of the sequences in the slots of one class."""
        state, tensors = self._states[class_index], self._tensors[class_index]
        slots = [self._slots[i].index for i in members]
        rows = num_rows(max(slots), state.count, few=self._few_sizes)
        positions = state.lengths[:rows]
        length = attended_length(max(positions) + 1, state.length, few=self._few_sizes)
        next_ids = [0] * rows
        for slot, token_id in zip(slots, token_ids, strict=True):
            next_ids[slot] = token_id
        behind = [state.length - 1 - position for position in positions]
        # One transfer to the device for all that the step reads.
        inputs = torch.tensor([*next_ids, *state.next_position_ids[:rows], *behind, *slots], device=self._device)
        input_ids, position_ids, positions_left, read = inputs.split([rows, rows, rows, len(slots)])
        position_ids = position_ids.view(rows, 1)
        output = self._causal_lm(
            input_ids=input_ids.view(rows, 1),
            attention_mask=self._masks[class_index].masks(positions_left, length),
            position_ids=position_ids.expand(*self._position_axes, rows, 1) if self._position_axes else position_ids,
            past_key_values=tensors.decode_cache(rows, length, positions_left),
            use_cache=True,
        )
        for slot in slots:
            state.lengths[slot] += 1
            state.next_position_ids[slot] += 1
        logits: torch.Tensor = output.logits.squeeze(1).index_select(0, read)
        return logits.float()

    def keep(self, indices: Sequence[int]) -> None:
        """Removes all sequences but those with the given indices, which stay in the given order."""
        kept = [self._slots[i] for i in indices]
        for slot in set(self._slots) - set(kept):
            self._states[slot.class_index].lengths[slot.index] = 0
        self._slots = kept


def _groups(prompts: Sequence[SlotInputs]) -> Iterator[list[int]]:
    """Indices of prompts that are prefilled together: in slots of one class, and of similar length."""
    by_class = sorted(range(len(prompts)), key=lambda i: (prompts[i].slot.class_index, prompts[i].length))
    for _, members in itertools.groupby(by_class, key=lambda i: prompts[i].slot.class_index):
        of_class = list(members)
        for start in range(0, len(of_class), _PREFILL_GROUP):
            yield of_class[start : start + _PREFILL_GROUP]
