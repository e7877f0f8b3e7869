"""Forward passes of a continuous batch whose keys and values are in slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fovea.modeling.capture import Capture
from fovea.modeling.transfers import to_device
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slot_decoding import SlotDecoder
from llm_service.engine.slot_graphs import SlotGraphs
from llm_service.engine.slot_prefill import SlotInputs, SlotPrefill
from llm_service.engine.slots import Slot
from llm_service.models.base import VisionLanguageModel
from llm_service.prompts import Prompt

__all__ = ["ModelRunner"]

# Eight prompts fill a device. Larger groups take as much time for each prompt, and more memory.
_PREFILL_GROUP: Final = 8


@dataclass(frozen=True)
class _ClassMembers:
    """The sequences in the slots of one class.

    Attributes:
        decoder: Decoder of the class.
        slots: Indices of their slots.
        index: Their indices in the batch, on the device.
    """

    decoder: SlotDecoder
    slots: list[int]
    index: Tensor


class ModelRunner:
    """Prefills and decodes on tensors alone.

    A sequence stays in its slot. Adding or removing it neither reads nor writes another one's keys and values. Each
    class of slots decodes by itself.

    Args:
        model: Language model.
        cache: Keys and values of all slots.
        few_sizes: Whether decoding steps have few sizes; see `decode_buckets`.
    """

    @torch.inference_mode()
    def __init__(self, model: VisionLanguageModel, cache: SlotCache, *, few_sizes: bool) -> None:
        self._device = model.device
        self._cache = cache
        self._prefill = SlotPrefill(model, self._cache)
        text_id = next(i for i in range(3) if i not in model.visual_token_ids)
        shortest = SlotInputs(model.embed(Prompt(np.array([text_id]), ())), Slot(len(cache.classes) - 1, 0))
        example = self._prefill.tensors([shortest])
        axes = example.position_ids.shape[:-2]
        self._decoders = [
            SlotDecoder(model, cache, index, axes, few_sizes=few_sizes) for index in range(len(cache.classes))
        ]
        self._graphs = SlotGraphs(cache, self._prefill, self._decoders, example, model.vocab_size)
        self._slots: list[Slot] = []  # of the sequences, in order
        self._classes: list[_ClassMembers] | None = None
        self._class_order = torch.empty(0)  # index of each sequence among those ordered by class

    def __len__(self) -> int:
        return len(self._slots)

    @torch.inference_mode()
    def capture_graphs(self, capture: Capture) -> None:
        """Captures graphs, before the first prompt."""
        self._graphs.capture(capture)
        self._cache.erase_all()

    def clear(self) -> None:
        """Removes all sequences."""
        self.keep([])

    def prefill(self, prompts: Sequence[SlotInputs]) -> Tensor:
        """Runs b prompts and appends them to the batch. If it fails, the batch is unchanged.

        Returns:
            [b, V] float32 logits of the first tokens.
        """
        logits: list[Tensor] = [torch.empty(0)] * len(prompts)
        for group in _groups(prompts):
            group_logits = self._graphs.prefill(self._prefill.tensors([prompts[i] for i in group]))
            for i, prompt_logits in zip(group, group_logits, strict=True):
                logits[i] = prompt_logits
        for prompt in prompts:
            self._append(prompt)
        return torch.stack(logits).float()

    def prefill_chunk(self, prompt: SlotInputs, start: int, end: int) -> Tensor:
        """Runs tokens `start` to `end` of a prompt, whose tokens before have run. The last chunk appends it.

        Returns:
            [1, V] float32 logits of the token after the chunk.
        """
        logits = self._prefill.forward_chunk(prompt, start, end)
        if end == prompt.length:
            self._append(prompt)
        return logits.float()

    def _append(self, prompt: SlotInputs) -> None:
        self._decoders[prompt.slot.class_index].add(prompt.slot.index, prompt.length, prompt.inputs.next_position_id)
        self._slots.append(prompt.slot)
        self._classes = None

    def decode(self, token_ids: Tensor) -> Tensor:
        """Runs one token of each of the B sequences. If it fails, the batch must be cleared with `clear`.

        Args:
            token_ids: [B] int64 ids of their last tokens, on the device of the model.

        Returns:
            [B, V] float32 logits of the next tokens.
        """
        if self._classes is None:
            self._classes = self._find_classes()
        if len(self._classes) == 1:
            return self._decode_class(self._classes[0], token_ids)
        logits = [self._decode_class(one, token_ids.index_select(0, one.index)) for one in self._classes]
        return torch.cat(logits).index_select(0, self._class_order)

    def _find_classes(self) -> list[_ClassMembers]:
        """The sequences by class, kept as long as the batch is the same."""
        members_of = {
            decoder.class_index: [i for i, slot in enumerate(self._slots) if slot.class_index == decoder.class_index]
            for decoder in self._decoders
        }
        order = np.argsort(np.concatenate(list(members_of.values())))
        self._class_order = to_device(torch.from_numpy(order), self._device)
        return [
            _ClassMembers(
                self._decoders[class_index],
                [self._slots[i].index for i in members],
                to_device(torch.tensor(members), self._device),
            )
            for class_index, members in members_of.items()
            if members
        ]

    def _decode_class(self, members: _ClassMembers, token_ids: Tensor) -> Tensor:
        """[b, V] logits of the sequences in the slots of one class."""
        decoder = members.decoder
        decoder.write_inputs(members.slots, token_ids)
        logits = decoder.select_in_use(self._graphs.decode(decoder, *decoder.step_size()))
        decoder.advance()
        return logits

    def keep(self, indices: Sequence[int]) -> None:
        """Removes all sequences but those with the given indices, which stay in the given order."""
        kept = [self._slots[i] for i in indices]
        for slot in set(self._slots) - set(kept):
            self._decoders[slot.class_index].remove(slot.index)
        self._slots = kept
        self._classes = None


def _groups(prompts: Sequence[SlotInputs]) -> Iterator[list[int]]:
    """Indices of prompts that are prefilled together: those of similar length."""
    by_length = sorted(range(len(prompts)), key=lambda i: prompts[i].length)
    for start in range(0, len(by_length), _PREFILL_GROUP):
        yield by_length[start : start + _PREFILL_GROUP]
